"""Other bases than VILA 1.5 with SigLIP, divided among processes: the same losses and weights as by one."""

from pathlib import Path

import pytest
import torch

from tests.training.processes import Place, finished, run_gang
from tests.training.test_equal import LOSS, WEIGHT
from vilam3.model import checkpoint
from vilam3.recipe import Recipe
from vilam3.train import local
from vilam3.train.record import StageResult
from vilam3.train.strategy import StrategyName

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
BASES = {"NVILA": ("nvila-tiny", "qwen2"), "InternViT": ("40b", "hermes-2")}
Trained = tuple[Recipe, Path, Path, StageResult]


@pytest.fixture(scope="module", params=BASES.values(), ids=list(BASES))
def trained(
    request: pytest.FixtureRequest, recipe: Recipe, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """The recipe, and its stages 1 and 4 by one process."""
    preset, template = request.param
    table = recipe.model_dump()
    table["model"] |= {"preset": preset, "template": template}
    table["stages"]["stage1_align"]["template"] = None
    changed, folder = Recipe.model_validate(table), tmp_path_factory.mktemp(preset)
    local.run(changed, stage="stage1_align", corpus=corpus, base=None, out=folder / "stage1")
    result = local.run(changed, stage="stage4_expert", corpus=corpus, base=folder / "stage1", out=folder / "stage4")
    return changed, folder / "stage1", folder / "stage4", result


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "fsdp2"])
def test_a_gang_loses_what_one_process_loses(
    trained: Trained, corpus: Path, tmp_path: Path, strategy: StrategyName
) -> None:
    recipe, base, out, alone = trained
    """Recomputed in the backward pass where the weights are divided as well, which those sizes need."""
    place = Place(recipe=recipe, corpus=corpus, base=base, folder=tmp_path)
    place = place.changed(gradient_checkpointing=strategy in {"zero3", "fsdp2"})
    found = finished(run_gang(place, 2, strategy))
    assert found["losses"] == pytest.approx(alone.losses, abs=LOSS)
    mine, theirs = (checkpoint.load(path).model.state_dict() for path in (tmp_path / "out", out))
    for name, weight in theirs.items():
        torch.testing.assert_close(mine[name], weight, atol=WEIGHT, rtol=0, msg=name)

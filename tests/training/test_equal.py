"""Whoever trains, and however many: the same losses, step by step, and in the end the same weights."""

import json
from pathlib import Path

import pytest
import torch

from tests.training.processes import Place, finished, run_gang
from vilam3.model import checkpoint
from vilam3.recipe import Recipe
from vilam3.settings import STAGES
from vilam3.train import local
from vilam3.train.record import StageResult
from vilam3.train.strategy import StrategyName

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
GOLDEN = Path(__file__).parents[1] / "golden" / "losses" / "stages.json"
LOSS, WEIGHT = 2e-4, 2e-3  # sums of other order are rounded otherwise, and Adam divides by what is nearly nothing
GANGS: tuple[tuple[StrategyName, int], ...] = (
    ("ddp", 1),
    ("ddp", 2),
    ("ddp", 3),
    ("zero1", 2),
    ("zero2", 2),
    ("zero2", 3),
    ("zero3", 2),
    ("zero3", 3),
    ("fsdp2", 2),
)
GATED: dict[str, object] = {
    "lora_rank": 2,
    "weight_decay": 0.0,
    "mixture": {"vqa": 1, "expert": 2, "text": 1},
    "adapter_tasks": {"answer": ["vqa", "text"], "consult": ["expert"]},
    "adapter_default": "answer",
    "adapter_experts": 3,
}
Alone = dict[str, tuple[Path, StageResult]]


def test_one_process_loses_what_it_always_lost(alone: Alone) -> None:
    """Rounded to four decimals, so that another CPU's rounding does not matter and another formula does."""
    found = {stage: [round(loss, 4) for loss in result.losses] for stage, (_, result) in alone.items()}
    assert found == json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("strategy", "world_size"), GANGS)
def test_a_gang_loses_what_one_process_loses(
    recipe: Recipe, corpus: Path, alone: Alone, tmp_path: Path, stage: str, strategy: StrategyName, world_size: int
) -> None:
    """Pictures beside samples of text alone, batches smaller than the gang, frozen parts: all are in these stages."""
    before = STAGES.index(stage) - 1
    base = alone[STAGES[before]][0] if before >= 0 else None
    place = Place(recipe=recipe, corpus=corpus, base=base, folder=tmp_path, stage=stage)
    found = finished(run_gang(place, world_size, strategy))
    out, expected = alone[stage]
    assert found["losses"] == pytest.approx(expected.losses, abs=LOSS)
    assert (found["steps"], found["samples"], found["inputs_digest"]) == (10, 40, expected.inputs_digest)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in out.iterdir()}
    mine, theirs = (checkpoint.load(path).model.state_dict() for path in (tmp_path / "out", out))
    for name, weight in theirs.items():
        torch.testing.assert_close(mine[name], weight, atol=WEIGHT, rtol=0, msg=name)
    if (strategy, world_size) == ("ddp", 1):
        assert found["weights_digest"] == expected.weights_digest


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "fsdp2"])
@pytest.mark.parametrize("recomputes", [False, True])
def test_a_gang_that_packs_loses_what_one_process_loses_without(
    place: Place, alone: Alone, strategy: StrategyName, *, recomputes: bool
) -> None:
    """Rows with an opening shared by several conversations, on members that have other rows."""
    packed = place.changed(packed_rows=2, gradient_checkpointing=recomputes)
    found = finished(run_gang(packed, 2, strategy))
    assert found["losses"] == pytest.approx(alone["stage4_expert"][1].losses, abs=LOSS)


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_gang_that_adapts_by_low_rank_loses_what_one_process_loses(
    place: Place, kind: str, strategy: StrategyName
) -> None:
    adapting = place.changed(lora_rank=4, lora_kind=kind, weight_decay=0.0)
    out = place.folder / "by-one"
    alone = local.run(adapting.recipe, stage=place.stage, corpus=place.corpus, base=place.base, out=out)
    found = finished(run_gang(adapting, 2, strategy))
    assert found["losses"] == pytest.approx(alone.losses, abs=LOSS)
    mine, theirs = (checkpoint.load(path).model.state_dict() for path in (place.folder / "out", out))
    for name, weight in theirs.items():
        torch.testing.assert_close(mine[name], weight, atol=WEIGHT, rtol=0, msg=name)


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
@pytest.mark.parametrize("packed_rows", [0, 2])
def test_a_gang_with_task_adapters_loses_what_one_process_loses(
    place: Place, packed_rows: int, strategy: StrategyName
) -> None:
    """Samples of other families on each member, in rows of their own and in rows together."""
    gated = place.changed(**GATED)
    out = place.folder / "by-one"
    alone = local.run(gated.recipe, stage=place.stage, corpus=place.corpus, base=place.base, out=out)
    found = finished(run_gang(gated.changed(packed_rows=packed_rows), 2, strategy))
    assert found["losses"] == pytest.approx(alone.losses, abs=LOSS)
    mine, theirs = (checkpoint.load(path) for path in (place.folder / "out", out))
    assert mine.config.adapters == theirs.config.adapters
    for name, weight in theirs.model.state_dict().items():
        torch.testing.assert_close(mine.model.state_dict()[name], weight, atol=WEIGHT, rtol=0, msg=name)


def test_a_step_of_text_alone_is_the_same_whoever_trains_and_waits_for_nobody(place: Place) -> None:
    """Many steps with pictures on one member only, on all or on none."""
    mixed = place.changed(mixture={"vqa": 1, "expert": 0, "text": 4}, steps=40, global_batch=2, micro_batch=1)
    results = [finished(run_gang(mixed, 2, strategy, out=strategy)) for strategy in ("ddp", "zero3")]
    assert results[1]["losses"] == pytest.approx(results[0]["losses"], abs=LOSS)


def test_a_thousand_steps_with_pictures_on_some_members_only_wait_for_nobody(place: Place) -> None:
    """Where weights are exchanged layer by layer, a member that left out a layer would leave the others waiting."""
    mixed = place.changed(mixture={"vqa": 1, "expert": 0, "text": 4}, steps=1000, global_batch=2, micro_batch=1)
    rare = mixed.changed(checkpoint_every_steps=500, kept_models=0)
    assert finished(run_gang(rare, 2, "zero3"))["steps"] == 1000

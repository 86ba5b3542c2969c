"""Products of low rank: nothing changes at first, they alone learn, and what is saved is an ordinary checkpoint."""

from pathlib import Path

import pytest
import torch

from vilam3.model import checkpoint
from vilam3.recipe import Recipe
from vilam3.train import local
from vilam3.train.low_rank import adapt, added_up
from vilam3.train.network import network_config
from vilam3.train.plan import learning_weights
from vilam3.train.sources import make_feed, starting_network
from vilam3.train.step import freeze, loss_of, make_optimizer, make_scheduler, train_step

STAGE = "stage4_expert"


@pytest.fixture(scope="module")
def adapting(recipe: Recipe) -> Recipe:
    table = recipe.model_dump()
    table["stages"][STAGE] |= {"lora_rank": 4, "lora_alpha": 8.0}
    return Recipe.model_validate(table)


@pytest.fixture(scope="module")
def base(recipe: Recipe, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "stage1"
    local.run(recipe, stage="stage1_align", corpus=corpus, base=None, out=out)
    return out


def test_they_start_from_the_same_loss_and_alone_learn(adapting: Recipe, corpus: Path, base: Path) -> None:
    stage = adapting.stage(STAGE)
    loaded = starting_network(adapting, stage=STAGE, corpus=corpus, base=base)
    batches = make_feed(adapting, stage=STAGE, corpus=corpus, loaded=loaded).batches(0, global_batch=4, micro_batch=2)
    model = loaded.model.train()
    before = [float(loss_of(model, batch, precision=torch.float32).detach()) for batch in batches]
    freeze(model, trainable=stage.trainable)
    adapt(model, stage, seed=adapting.seed)
    assert [float(loss_of(model, batch, precision=torch.float32).detach()) for batch in batches] == before
    counted = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert counted == learning_weights(network_config(adapting.model), stage)
    untouched = {name: weight.clone() for name, weight in model.llm.named_parameters() if "lora" not in name}
    optimizer = make_optimizer(model, stage)
    scheduler = make_scheduler(optimizer, stage.model_copy(update={"warmup_ratio": 0.0}), steps=8)
    for _ in range(2):
        train_step(model, batches, optimizer=optimizer, scheduler=scheduler, gradient_clip=0.0)
    assert all(
        torch.equal(weight, untouched[name]) for name, weight in model.llm.named_parameters() if name in untouched
    )
    assert all(bool(weight.any()) for name, weight in model.llm.named_parameters() if name.endswith("lora_b"))
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    merged = added_up(loaded, stage, weights).model.train()
    for batch in batches:
        expected = loss_of(model, batch, precision=torch.float32)
        torch.testing.assert_close(loss_of(merged, batch, precision=torch.float32), expected, rtol=1e-5, atol=1e-5)


def test_what_is_saved_has_the_names_of_any_other_checkpoint(
    adapting: Recipe, corpus: Path, base: Path, tmp_path: Path
) -> None:
    result = local.run(adapting, stage=STAGE, corpus=corpus, base=base, out=tmp_path / "out")
    found, before = (checkpoint.load(path).model.state_dict() for path in (tmp_path / "out", base))
    assert found.keys() == before.keys()
    moved = {name for name in found if not torch.equal(found[name], before[name]) and name.startswith("llm.")}
    assert moved == {name for name in found if "_proj.weight" in name and name.startswith("llm.")}
    assert len(list((tmp_path / "out" / "checkpoints").iterdir())) == 2
    assert result.final_loss < result.losses[0]


def test_without_the_language_model_it_has_no_effect_and_is_refused(recipe: Recipe) -> None:
    table = recipe.model_dump()
    table["stages"]["stage1_align"]["lora_rank"] = 4
    with pytest.raises(ValueError, match="lora_rank=4: has no effect without llm in trainable"):
        Recipe.model_validate(table)

"""Products of low rank: nothing changes at first, they alone learn, and what is saved is an ordinary checkpoint."""

from concurrent.futures import Executor
from pathlib import Path

import pytest
import torch

from vilam3.model import checkpoint
from vilam3.recipe import Recipe
from vilam3.train import local
from vilam3.train.low_rank import Decomposed, adapt, added_up
from vilam3.train.network import network_config
from vilam3.train.plan import learning_weights
from vilam3.train.sources import make_feed, starting_network
from vilam3.train.step import freeze, loss_of, make_optimizer, make_scheduler, train_step

STAGE = "stage4_expert"


@pytest.fixture(scope="module", params=["lora", "dora"])
def adapting(recipe: Recipe, request: pytest.FixtureRequest) -> Recipe:
    table = recipe.model_dump()
    table["stages"][STAGE] |= {"lora_rank": 4, "lora_alpha": 8.0, "lora_kind": request.param}
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
    loaded = adapt(loaded, stage, seed=adapting.seed)
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
    moved = [weight for name, weight in model.llm.named_parameters() if name.endswith(("lora_b", "lora_length"))]
    assert len(moved) == 7 * (2 if stage.lora_kind == "dora" else 1)
    assert all(bool(weight.any()) for weight in moved)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    merged = added_up(loaded, stage, weights).model.train()
    for batch in batches:
        expected = loss_of(model, batch, precision=torch.float32)
        torch.testing.assert_close(loss_of(merged, batch, precision=torch.float32), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("has_bias", [False, True])
def test_dora_is_the_published_formula_with_the_length_of_the_sum_as_a_constant(*, has_bias: bool) -> None:
    """Liu et al. 2024, equations 5 and 11, with the whole matrices and a magnitude of its own in float64."""
    generator = torch.Generator().manual_seed(3)
    linear = torch.nn.Linear(6, 5, bias=has_bias)
    layer = Decomposed(linear, rank=2, alpha=4.0, generator=generator)
    with torch.no_grad():
        layer.lora_b.normal_(generator=generator)
        layer.lora_length.normal_(std=0.1, generator=generator)
    values, seen = (torch.randn(3, size, generator=generator) for size in (6, 5))
    base, down, up = (one.detach().double() for one in (linear.weight, layer.lora_a, layer.lora_b))
    magnitude = (base.norm(dim=1) + layer.lora_length.detach().double()).requires_grad_()
    down, up = down.requires_grad_(), up.requires_grad_()
    turned = base + 2.0 * up @ down
    expected = values.double() @ (magnitude[:, None] * turned / turned.detach().norm(dim=1, keepdim=True)).T
    if has_bias:
        expected = expected + linear.bias.detach().double()
    found = layer(values)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    (found * seen).sum().backward()
    (expected * seen.double()).sum().backward()
    for mine, theirs in ((layer.lora_a, down), (layer.lora_b, up), (layer.lora_length, magnitude)):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5)


def test_dora_begins_exactly_where_the_model_is_in_half_precision_too() -> None:
    """A magnitude of its own would be rounded; what is added to the length is zero in any precision."""
    generator = torch.Generator().manual_seed(5)
    linear = torch.nn.Linear(64, 32, bias=False).bfloat16()
    layer = Decomposed(linear, rank=4, alpha=8.0, generator=generator)
    values = torch.randn(7, 64, generator=generator).bfloat16()
    assert torch.equal(layer(values), linear(values))


def test_a_killed_stage_goes_on_to_the_same_bits(
    adapting: Recipe, corpus: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = local.run(adapting, stage=STAGE, corpus=corpus, base=base, out=tmp_path / "whole")
    step_of = local._step

    def dying(job: local._Job, step: int, workers: Executor | None) -> float:
        if step == 5:
            raise KeyboardInterrupt
        return step_of(job, step, workers)

    monkeypatch.setattr(local, "_step", dying)
    with pytest.raises(KeyboardInterrupt):
        local.run(adapting, stage=STAGE, corpus=corpus, base=base, out=tmp_path / "out")
    monkeypatch.setattr(local, "_step", step_of)
    found = local.run(adapting, stage=STAGE, corpus=corpus, base=base, out=tmp_path / "out")
    assert (found.losses, found.weights_digest) == (whole.losses, whole.weights_digest)


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


def test_a_kind_without_a_rank_has_no_effect_and_is_refused(recipe: Recipe) -> None:
    table = recipe.model_dump()
    table["stages"][STAGE]["lora_kind"] = "dora"
    with pytest.raises(ValueError, match="lora_kind='dora': has no effect without lora_rank"):
        Recipe.model_validate(table)

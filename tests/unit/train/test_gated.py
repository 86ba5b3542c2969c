"""Adapters that a task chooses: each family learns alone, and what is saved beside the matrices is what was trained."""

from pathlib import Path
from typing import Any

import pytest
import torch

from vilam3.corpus.sharding import Cut, shard_corpus
from vilam3.errors import RecipeError
from vilam3.model import checkpoint
from vilam3.model.checkpoint import Loaded
from vilam3.recipe import Recipe
from vilam3.settings import Stage
from vilam3.train import local
from vilam3.train.batches import Feed
from vilam3.train.low_rank import adapt
from vilam3.train.network import network_config
from vilam3.train.plan import learning_weights
from vilam3.train.sources import make_feed, starting_network
from vilam3.train.step import Batch, freeze, loss_of

STAGE = "stage4_expert"
GATED: dict[str, Any] = {
    "lora_rank": 2,
    "lora_alpha": 8.0,
    "mixture": {"vqa": 1, "expert": 2, "text": 1},
    "adapter_tasks": {"answer": ["vqa", "text"], "consult": ["expert"]},
    "adapter_default": "answer",
    "adapter_experts": 3,
}


def changed(recipe: Recipe, **changes: object) -> Recipe:
    """The recipe with other settings of stage 4."""
    table = recipe.model_dump()
    table["stages"][STAGE] |= changes
    return Recipe.model_validate(table)


@pytest.fixture(scope="module")
def gated(recipe: Recipe) -> Recipe:
    return changed(recipe, **GATED)


@pytest.fixture(scope="module")
def base(recipe: Recipe, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "stage1"
    local.run(recipe, stage="stage1_align", corpus=corpus, base=None, out=out)
    return out


@pytest.fixture
def adapted(gated: Recipe, corpus: Path, base: Path) -> Loaded:
    """With adapters that have an effect."""
    loaded = starting_network(gated, stage=STAGE, corpus=corpus, base=base)
    freeze(loaded.model, trainable=gated.stage(STAGE).trainable)
    loaded = adapt(loaded, gated.stage(STAGE), seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in loaded.model.named_parameters():
            if name.endswith((".gated_b", ".gated_route")):
                weight.normal_(std=0.3, generator=generator)
    return loaded


def feed(recipe: Recipe, corpus: Path, loaded: Loaded, **changes: object) -> Feed:
    """Of stage 4."""
    return make_feed(changed(recipe, **changes), stage=STAGE, corpus=corpus, loaded=loaded)


def total(loaded: Loaded, batches: list[Batch]) -> torch.Tensor:
    """Loss over all targets of the batches."""
    losses = [loss_of(loaded.model, batch, precision=torch.float32) * batch.num_targets for batch in batches]
    return torch.stack(losses).sum()


def test_nothing_changes_at_first_and_the_plan_counts_what_learns(gated: Recipe, corpus: Path, base: Path) -> None:
    stage = gated.stage(STAGE)
    loaded = starting_network(gated, stage=STAGE, corpus=corpus, base=base)
    batches = feed(gated, corpus, loaded).batches(0, global_batch=8, micro_batch=8)
    before = float(total(loaded, batches).detach())
    freeze(loaded.model, trainable=stage.trainable)
    loaded = adapt(loaded, stage, seed=3)
    assert float(total(loaded, batches).detach()) == before
    counted = sum(weight.numel() for weight in loaded.model.parameters() if weight.requires_grad)
    assert counted == learning_weights(network_config(gated.model), stage)


@pytest.mark.parametrize(
    "changes", [{"packed_rows": 2, "max_tokens": 512}, {"micro_batch": 4}, {"gradient_checkpointing": True}]
)
def test_mixed_families_lose_what_each_sample_loses_alone(
    gated: Recipe, corpus: Path, adapted: Loaded, changes: dict[str, int]
) -> None:
    """Packed rows with a shared opening, a batch's shared prefix, and activations computed again."""
    alone = feed(gated, corpus, adapted).batches(0, global_batch=16, micro_batch=1)
    mixed = feed(gated, corpus, adapted, **changes).batches(0, global_batch=16, micro_batch=4)
    assert len(alone) == 16 > len(mixed)
    if "packed_rows" in changes:
        assert any(
            one.families_BT is not None and len(set(one.families_BT[one.mask_BT].tolist())) == 2 for one in mixed
        )
    expected = total(adapted, alone)
    if "gradient_checkpointing" in changes:
        adapted.model.train().llm.activation_checkpointing_enable({"use_reentrant": False})
    found = total(adapted, mixed)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    learning = [weight for weight in adapted.model.parameters() if weight.requires_grad]
    for mine, theirs in zip(
        torch.autograd.grad(found, learning, allow_unused=True),
        torch.autograd.grad(expected, learning, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-3)


def test_a_family_moves_no_weight_of_another(gated: Recipe, corpus: Path, adapted: Loaded) -> None:
    batches = feed(gated, corpus, adapted).batches(0, global_batch=16, micro_batch=1)
    own = [one for one in batches if one.families_BT is not None and bool((one.families_BT == 1).all())]
    assert own
    total(adapted, own).backward()  # type: ignore[no-untyped-call]  # torch ships it untyped
    products = 3 * 2  # experts and their rank
    for name, weight in adapted.model.named_parameters():
        if name.endswith((".gated_a", ".gated_b")):
            assert weight.grad is not None
            of_products = weight.grad if name.endswith(".gated_a") else weight.grad.T
            assert not of_products[:products].any(), name
            assert of_products[products:].any(), name


def test_what_is_saved_is_loaded_as_it_was_trained(gated: Recipe, corpus: Path, base: Path, tmp_path: Path) -> None:
    result = local.run(gated, stage=STAGE, corpus=corpus, base=base, out=tmp_path / "out")
    assert result.final_loss < result.losses[0]
    loaded = checkpoint.load(tmp_path / "out")
    assert loaded.config.adapters is not None
    assert loaded.config.adapters.names == ("answer", "consult")
    before = checkpoint.load(base).model.state_dict()
    after = loaded.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("llm."))
    assert all(bool(weight.any()) for name, weight in after.items() if name.endswith((".gated_b", ".gated_route")))
    for folder in ("llm", "config.json"):
        mine, theirs = (sorted(path.rglob("*")) or [path] for path in (tmp_path / "out" / folder, base / folder))
        assert [one.name for one in mine] == [one.name for one in theirs]
    assert (tmp_path / "out" / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_training_goes_on_with_the_very_same_adapters_only(
    gated: Recipe, corpus: Path, base: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    trained = local.run(gated, stage=STAGE, corpus=corpus, base=base, out=first)
    again = local.run(gated, stage=STAGE, corpus=corpus, base=first, out=tmp_path / "again")
    assert again.losses[0] < trained.losses[0]
    without = {"adapter_tasks": {}, "adapter_experts": 1, "adapter_default": ""}
    for other in (changed(gated, adapter_experts=2), changed(gated, **without)):
        with pytest.raises(RecipeError, match=r"adapter_tasks: the base has task adapters \(answer, consult\)"):
            local.run(other, stage=STAGE, corpus=corpus, base=first, out=tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lora_rank": 0}, "adapter_tasks: need lora_rank"),
        ({"lora_kind": "dora"}, "adapter_tasks: need lora_rank"),
        ({"adapter_default": "report"}, "adapter_default='report': is no family; name one of answer, consult"),
        ({"adapter_tasks": {"answer": ["vqa", "text"], "consult": ["expert", "vqa"]}}, "vqa is named twice"),
        (
            {"adapter_tasks": {"answer": ["vqa", "text", "expert"], "consult": ["ct"]}},
            "consult: none of its names is in",
        ),
        ({"adapter_tasks": {"answer": ["vqa"], "consult": ["expert"]}}, "text belongs to no family"),
        ({"adapter_tasks": {}}, "have no effect without adapter_tasks"),
    ],
)
def test_families_that_do_not_hold_together_are_refused(
    gated: Recipe, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        changed(gated, **changes)


def test_a_corpus_in_shards_has_the_same_families(gated: Recipe, corpus: Path, adapted: Loaded, tmp_path: Path) -> None:
    """In one window, so that the order is the folder's; a data set of weight 0 needs no family."""
    shard_corpus(corpus, out=str(tmp_path / "shards"), cut=Cut(max_samples=4, mixed_shards=20))
    idle = changed(gated, mixture={**GATED["mixture"], "captions": 0})
    batches = []
    for place in (corpus, tmp_path / "shards"):
        read = make_feed(idle, stage=STAGE, corpus=place, loaded=adapted)
        batches.append(read.batches(0, global_batch=16, micro_batch=4))
        read.close()
    for one, other in zip(*batches, strict=True):
        assert one.samples == other.samples
        assert one.families_BT is not None
        assert other.families_BT is not None
        assert torch.equal(one.families_BT, other.families_BT)
        assert {int(one.families_BT[row, 0]) for row in range(len(one.samples))} == {
            int(name.startswith("expert")) for name in one.samples
        }


def test_a_stage_without_families_feeds_none(recipe: Recipe, corpus: Path, base: Path) -> None:
    loaded = starting_network(recipe, stage=STAGE, corpus=corpus, base=base)
    stage: Stage = recipe.stage(STAGE)
    assert adapt(loaded, stage, seed=3) is loaded
    batches = feed(recipe, corpus, loaded).batches(0, global_batch=4, micro_batch=2)
    assert all(one.families_BT is None for one in batches)

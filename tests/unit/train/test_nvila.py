"""NVILA as the base: trained by the same steps from the same recipe, whole and by products of low rank."""

from pathlib import Path

import pytest
import torch

from vilam3.model import checkpoint
from vilam3.recipe import Recipe
from vilam3.train import local


@pytest.fixture(scope="module")
def nvila(recipe: Recipe) -> Recipe:
    """The recipe of the other tests with another preset and template."""
    table = recipe.model_dump()
    table["model"] |= {"preset": "nvila-tiny", "template": "qwen2"}
    table["stages"]["stage1_align"] |= {"template": None, "trainable": ["mm_projector", "llm"], "steps": 30}
    return Recipe.model_validate(table)


@pytest.fixture(scope="module")
def aligned(nvila: Recipe, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished stage 1, from nothing."""
    out = tmp_path_factory.mktemp("nvila") / "stage1"
    result = local.run(nvila, stage="stage1_align", corpus=corpus, base=None, out=out)
    assert result.final_loss < result.losses[0] - 0.5
    return out


def test_what_was_trained_from_nothing_is_an_nvila_checkpoint(aligned: Path) -> None:
    loaded = checkpoint.load(aligned)
    config = loaded.config
    assert (config.llm.family, config.image_order, config.image_end) == ("qwen2", "row", "\n")
    assert (loaded.template.name, loaded.unexpected) == ("qwen2", ())
    assert loaded.tokenizer.image_end == tuple(loaded.tokenizer.backend.encode("\n")[0])


def test_the_stage_with_experts_moves_every_part(nvila: Recipe, corpus: Path, aligned: Path, tmp_path: Path) -> None:
    local.run(nvila, stage="stage4_expert", corpus=corpus, base=aligned, out=tmp_path / "stage4")
    before, after = (checkpoint.load(path).model.state_dict() for path in (aligned, tmp_path / "stage4"))
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"vision_tower", "mm_projector", "llm"}


def test_packed_rows_lose_what_padded_ones_do(nvila: Recipe, corpus: Path, aligned: Path, tmp_path: Path) -> None:
    losses = {}
    for rows in (0, 1):
        table = nvila.model_dump()
        table["stages"]["stage4_expert"] |= {"packed_rows": rows, "max_tokens": 512, "steps": 3}
        out = tmp_path / str(rows)
        losses[rows] = local.run(
            Recipe.model_validate(table), stage="stage4_expert", corpus=corpus, base=aligned, out=out
        ).losses
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_products_of_low_rank_leave_the_biases_as_they_were(
    nvila: Recipe, corpus: Path, aligned: Path, tmp_path: Path, kind: str
) -> None:
    table = nvila.model_dump()
    table["stages"]["stage4_expert"] |= {"lora_rank": 2, "lora_kind": kind, "trainable": ["llm"]}
    local.run(
        Recipe.model_validate(table), stage="stage4_expert", corpus=corpus, base=aligned, out=tmp_path / "adapted"
    )
    before, after = (checkpoint.load(path).model.state_dict() for path in (aligned, tmp_path / "adapted"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.endswith("_proj.weight") for name in moved)


def test_adapters_by_task_stand_beside_weights_that_stay(
    nvila: Recipe, corpus: Path, aligned: Path, tmp_path: Path
) -> None:
    table = nvila.model_dump()
    table["stages"]["stage4_expert"] |= {
        "trainable": ["llm"],
        "lora_rank": 2,
        "mixture": {"vqa": 1, "expert": 2},
        "adapter_tasks": {"answer": ["vqa"], "consult": ["expert"]},
        "adapter_default": "answer",
    }
    out = tmp_path / "gated"
    local.run(Recipe.model_validate(table), stage="stage4_expert", corpus=corpus, base=aligned, out=out)
    before, loaded = checkpoint.load(aligned).model.state_dict(), checkpoint.load(out)
    after = loaded.model.state_dict()
    assert loaded.config.adapters is not None
    assert set(after) > set(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())

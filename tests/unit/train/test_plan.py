"""A plan: steps that are published, hours beside hours that were, and memory by ZeRO's own account."""

import json
from pathlib import Path

import pytest

from tests.unit.train.test_verbs import vilam3
from vilam3.errors import RecipeError
from vilam3.recipe import Recipe, load
from vilam3.train.network import network_config
from vilam3.train.plan import ACCELERATORS, Assumptions, plan, states_bytes

RECIPES = Path("pipelines/recipes")
A100 = Assumptions(accelerator=ACCELERATORS["a100-80gb"], utilisation=0.26)


@pytest.mark.parametrize(("size", "gpu_hours"), [("3b", 176), ("8b", 352), ("13b", 624)])
def test_stage_4_as_published_plans_to_its_steps_and_near_its_hours(size: str, gpu_hours: float) -> None:
    """32 A100s for 5.5, 11 and 19.5 hours by their authors; neither length of samples nor utilisation is published,
    so the lengths of the recipe and one utilisation have to come near all three.
    """
    stage = plan(load([RECIPES / f"vila-m3-{size}.toml"]), A100)[-1]
    assert stage.work is not None
    assert stage.work.steps == 3594
    assert stage.work.samples == 3594 * 1024
    assert stage.work.gpu_hours == pytest.approx(gpu_hours, rel=0.15)
    assert stage.work.wall_hours * stage.devices == pytest.approx(stage.work.gpu_hours)


def test_stage_4_of_40b_plans_near_the_hours_that_are_quoted() -> None:
    """128 GPUs for 21 hours; with the same assumptions as the sizes whose scripts are known."""
    stage = plan(load([RECIPES / "vila-m3-40b.toml"]), A100)[-1]
    assert stage.work is not None
    assert (stage.work.steps, stage.devices) == (3594, 128)
    assert stage.work.gpu_hours == pytest.approx(128 * 21, rel=0.15)
    assert stage.peak_bytes < A100.accelerator.memory_bytes


def test_stage_4_on_nvila_plans_more_positions_of_a_picture_than_of_vila() -> None:
    """256 and a line break in place of 196: what a picture costs is in the network, not in an assumption."""
    old, new = (network_config(load([RECIPES / f"vila-m3-{size}.toml"]).model) for size in ("8b", "nvila-8b"))
    assert (old.tokens_per_image, new.tokens_per_image) == (196, 256)
    stage = plan(load([RECIPES / "vila-m3-nvila-8b.toml"]), A100)[-1]
    assert stage.work is not None
    assert stage.work.steps == 3594
    assert stage.peak_bytes < A100.accelerator.memory_bytes


def test_memory_is_the_zero_papers_example() -> None:
    """7.5 billion weights on 64 devices: 120, 31.4, 16.6 and 1.9 GB (Rajbhandari et al. 2020, figure 1)."""
    total = 7_500_000_000
    found = [
        states_bytes(total, total, devices=64, zero_stage=zero, precision="bfloat16") / 1e9 for zero in (0, 1, 2, 3)
    ]
    assert found == pytest.approx([120, 31.4, 16.6, 1.875], abs=0.05)


def test_what_is_frozen_costs_neither_gradients_nor_its_own_backward_pass() -> None:
    recipe = load([RECIPES / "vila-m3-8b.toml"])
    align, *_, expert = plan(recipe, A100, sizes_known=dict.fromkeys(_names(recipe), 1_000_000))
    assert align.trainable < expert.trainable / 100
    assert align.states_bytes[0] < expert.states_bytes[0] / 7
    assert align.work is not None
    assert expert.work is not None
    assert align.work.gpu_hours / align.work.samples < 0.7 * expert.work.gpu_hours / expert.work.samples


def test_lengths_that_learn_are_counted_with_what_they_hold_for_the_backward_pass() -> None:
    """Of the 8B network: rows of query, output and down, of key and value, of gate and up, in 32 layers."""
    recipe = load([RECIPES / "vila-m3-8b.toml"])
    table = recipe.model_dump()
    found = []
    for kind in ("lora", "dora"):
        table["stages"]["stage4_expert"] |= {"lora_rank": 16, "lora_kind": kind}
        found.append(plan(Recipe.model_validate(table), A100)[-1])
    lora, dora = found
    assert dora.trainable - lora.trainable == 32 * (3 * 4096 + 2 * 1024 + 2 * 14336)
    assert dora.activations_bytes > lora.activations_bytes


def test_adapters_by_task_are_counted_for_each_family_and_kept_beside_the_model() -> None:
    """Of the 8B network: two families of three experts, and a score of each input for each expert."""
    recipe = load([RECIPES / "vila-m3-8b.toml"])
    table = recipe.model_dump()
    names = sorted(table["stages"]["stage4_expert"]["mixture"])
    table["stages"]["stage4_expert"] |= {"trainable": ["llm"], "lora_rank": 16}
    shared = plan(Recipe.model_validate(table), A100)[-1]
    families = {"adapter_tasks": {"answer": names[:2], "report": names[2:]}, "adapter_default": "answer"}
    table["stages"]["stage4_expert"] |= families | {"adapter_experts": 3}
    gated = plan(Recipe.model_validate(table), A100)[-1]
    routers = 32 * 2 * 3 * (6 * 4096 + 14336)
    assert gated.trainable == 2 * 3 * shared.trainable + routers
    assert gated.checkpoint_bytes - shared.checkpoint_bytes == 2 * gated.trainable


def test_a_stage_whose_samples_are_not_known_says_which() -> None:
    first = plan(load([RECIPES / "vila-m3-8b.toml"]), A100)[0]
    assert first.work is None
    assert first.unknown == ("llava_1_5_mm_align",)


def test_a_price_becomes_a_cost() -> None:
    recipe = load([RECIPES / "vila-m3-8b.toml"])
    work = plan(recipe, Assumptions(accelerator=ACCELERATORS["h100"], price_per_hour=2.0))[-1].work
    assert work is not None
    assert work.cost == pytest.approx(2 * work.gpu_hours)


@pytest.mark.parametrize(
    "wrong", [{"utilisation": 0.0}, {"utilisation": 1.5}, {"tokens_per_sample": -1.0}, {"price_per_hour": -2.0}]
)
def test_an_assumption_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=r"plan: "):
        Assumptions(accelerator=ACCELERATORS["h100"], **wrong)


def test_the_verb_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train", "--recipe", RECIPES / "vila-m3-8b.toml", "--plan")
    assert vilam3(*words, "--accelerator", "a100-80gb", "--price", "2") == 0
    assert "3,594" in capsys.readouterr().out
    assert vilam3(*words, "--stage", "stage4_expert", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert [stage["work"]["steps"] for stage in printed["stages"]] == [3594]


def test_the_verb_counts_the_samples_of_a_corpus(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """12 captions, 5 epochs, batches of 32: 1 step and 28 samples that no step takes."""
    epochs = tmp_path / "epochs.toml"
    tiny = RECIPES / "tiny.toml"
    tiny_text = tiny.read_text(encoding="utf-8")
    epochs.write_text(tiny_text.replace("steps = 280", "epochs = 5"), encoding="utf-8")
    words = ("--recipe", epochs, "--stage", "stage1_align", "--plan", "--corpus", corpus, "--json")
    assert vilam3("train", *words) == 0
    assert json.loads(capsys.readouterr().out)["stages"][0]["work"]["steps"] == 1


def _names(recipe: Recipe) -> set[str]:
    return {name for stage in recipe.stage_names for name in recipe.stage(stage).mixture}

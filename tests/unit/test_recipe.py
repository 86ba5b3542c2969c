"""Recipes: what they accept, how they compose and what they say when they refuse."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vilam3 import settings as groups
from vilam3.errors import RecipeError
from vilam3.recipe import Recipe, load, parse_resolved

RECIPES = Path(__file__).parents[2] / "pipelines" / "recipes"
PUBLISHED = ("vila-m3-3b", "vila-m3-8b", "vila-m3-13b")
WITHOUT_WEIGHTS = ("vila-m3-40b", "vila-m3-nvila-8b")
MINIMAL = """
name = "small"
[model]
preset = "tiny"
template = "v1"
[stages.stage4_expert]
trainable = ["llm"]
learning_rate = 1e-3
steps = 4
global_batch = 4
micro_batch = 2
checkpoint_every_steps = 2
mixture = { vqa = 1 }
"""


def write(folder: Path, text: str, *, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load([write(folder, text)])
    return str(caught.value)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_folder_parses(path: Path) -> None:
    recipe = load([path])
    assert recipe.name == path.stem
    # NVILA comes with its first three stages done, in a way that is not ours to repeat.
    assert len(recipe.stage_names) == (1 if recipe.model.preset == "nvila-8b" else 4)


@pytest.mark.parametrize("name", PUBLISHED + WITHOUT_WEIGHTS)
def test_the_published_stage_4_plans_the_published_samples_and_steps(name: str) -> None:
    stage = load([RECIPES / f"{name}.toml"]).stage("stage4_expert")
    assert stage.samples_per_epoch() == 1_840_428
    assert stage.planned_steps() == 3594
    assert stage.devices * stage.micro_batch * stage.accumulation == 1024


@pytest.mark.parametrize(
    ("name", "template", "micro_batch", "accumulation"),
    [("vila-m3-3b", "v1", 32, 1), ("vila-m3-8b", "llama_3", 16, 2), ("vila-m3-13b", "v1", 16, 2)],
)
def test_published_stage_4_numbers(name: str, template: str, micro_batch: int, accumulation: int) -> None:
    recipe = load([RECIPES / f"{name}.toml"])
    stage = recipe.stage("stage4_expert")
    assert recipe.model.template == template
    assert (stage.micro_batch, stage.accumulation) == (micro_batch, accumulation)
    assert (stage.learning_rate, stage.epochs, stage.zero_stage) == (2e-5, 2, 3)
    assert (stage.warmup_ratio, stage.weight_decay, stage.checkpoint_every_steps) == (0.03, 0.0, 100)


def test_only_the_8b_model_keeps_its_template_in_stage_1() -> None:
    templates = {name: load([RECIPES / f"{name}.toml"]).stage("stage1_align").template for name in PUBLISHED}
    assert templates == {"vila-m3-3b": "plain", "vila-m3-8b": None, "vila-m3-13b": "plain"}


def test_files_compose_left_to_right_key_by_key(tmp_path: Path) -> None:
    base = write(tmp_path, MINIMAL)
    override = write(
        tmp_path, "seed = 7\n[stages.stage4_expert]\nsteps = 9\nmixture = { report = 2 }", name="more.toml"
    )
    stage = load([base, override]).stage("stage4_expert")
    assert (stage.steps, stage.learning_rate) == (9, 1e-3)
    assert stage.mixture == {"vqa": 1, "report": 2}
    assert load([base, override]).seed == 7


def test_an_unknown_key_names_file_path_value_and_the_nearest_key(tmp_path: Path) -> None:
    text = refusal(tmp_path, MINIMAL.replace("micro_batch", "microbatch"))
    assert "recipe.toml: stages.stage4_expert.microbatch=2: unknown key; did you mean 'micro_batch'?" in text
    assert (
        refusal(tmp_path, "sed = 1\n" + MINIMAL)
        .split("; valid")[0]
        .endswith("sed=1: unknown key; did you mean 'seed'?")
    )


def test_the_file_that_set_the_wrong_value_is_named(tmp_path: Path) -> None:
    base = write(tmp_path, MINIMAL)
    override = write(tmp_path, "[stages.stage4_expert]\nlearning_rate = -1.0", name="more.toml")
    with pytest.raises(RecipeError, match=r"more\.toml: stages\.stage4_expert\.learning_rate=-1\.0: .*greater than 0"):
        load([base, override])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("global_batch = 4", "global_batch = 5", "not a multiple of devices*micro_batch=2; use 4 or 6"),
        ("steps = 4", "steps = 4\nepochs = 1", "give exactly one of epochs and steps"),
        ("steps = 4\n", "", "give exactly one of epochs and steps"),
        ("vqa = 1", "vqa = 0", "give at least one a positive weight"),
        ('["llm"]', '["lmm"]', "stages.stage4_expert.trainable[0]"),
        ('template = "v1"', 'template = "v2"', "'v1', 'llama_3', 'hermes-2' or 'qwen2'"),
        ("learning_rate = 1e-3\n", "", "stages.stage4_expert.learning_rate: this key is required; add it"),
        ("checkpoint_every_steps = 2", "checkpoint_every_steps = 2\npublished_samples = { x = 1 }", "not in mixture"),
        ('name = "small"', 'name = "Small!"', "name="),
        (
            "[model]",
            "[corpus]\ntest_fraction = 0.95\n[model]",
            "corpus.test_fraction=0.95: Input should be less than 0.5",
        ),
        ("[model]", "[model", "not valid TOML"),
    ],
)
def test_a_wrong_recipe_says_which_rule_it_breaks(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in MINIMAL
    assert says in refusal(tmp_path, MINIMAL.replace(old, new))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.toml: cannot be read"):
        load([tmp_path / "absent.toml"])
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(RecipeError, match=r"latin\.toml: byte 8 is not UTF-8"):
        load([tmp_path / "latin.toml"])
    with pytest.raises(RecipeError, match="no file given"):
        load([])


def test_an_absent_stage_is_refused_with_the_ones_there_are(tmp_path: Path) -> None:
    recipe = load([write(tmp_path, MINIMAL)])
    with pytest.raises(
        RecipeError, match="no stage 'stage4_expart'; it has stage4_expert; did you mean 'stage4_expert'"
    ):
        recipe.stage("stage4_expart")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_resolved_recipe_reads_back_as_itself(path: Path) -> None:
    recipe = load([path])
    again = parse_resolved(recipe.resolved_json())
    assert again == recipe
    assert again.digest == recipe.digest


def test_a_broken_resolved_recipe_is_refused() -> None:
    with pytest.raises(RecipeError, match="resolved recipe: "):
        parse_resolved("{")


@given(seed=st.integers(0, 2**31 - 1), batch=st.integers(1, 64), share=st.integers(1, 8))
@settings(max_examples=15, deadline=None)
def test_accumulation_always_makes_up_the_global_batch(seed: int, batch: int, share: int) -> None:
    recipe = load([RECIPES / "tiny.toml"])
    table = recipe.model_dump()
    table["seed"] = seed
    stage = {**table["stages"]["stage4_expert"], "global_batch": batch * share, "micro_batch": share}
    table["stages"]["stage4_expert"] = stage
    made = Recipe.model_validate(table).stage("stage4_expert")
    assert made.accumulation * made.micro_batch * made.devices == made.global_batch


def test_every_field_says_what_it_is() -> None:
    models: list[type[groups.Settings]] = [Recipe]
    models += [one for one in vars(groups).values() if isinstance(one, type) and issubclass(one, groups.Settings)]
    bare = [
        f"{model.__name__}.{name}"
        for model in models
        for name, field in model.model_fields.items()
        if not field.description
    ]
    assert bare == []


def test_reading_a_recipe_loads_no_heavy_library() -> None:
    code = "import sys, vilam3.recipe; print(sorted({'torch','mlflow','ray','kfp','transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    assert done.stdout.strip() == "[]"

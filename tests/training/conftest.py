"""The small corpus and network of the unit tests, with their four stages trained by one process."""

from pathlib import Path

import pytest

from tests.training.processes import Place
from tests.unit.train import conftest as small
from tests.unit.train.conftest import corpus
from vilam3.recipe import Recipe
from vilam3.settings import STAGES
from vilam3.train import local
from vilam3.train.record import StageResult

__all__ = ["alone", "corpus", "place", "small_recipe"]
STEPS = 10
small_recipe = small.recipe  # pytest finds it here, too


@pytest.fixture(scope="session", name="recipe")
def ten_steps(small_recipe: Recipe) -> Recipe:
    """The small recipe with ten steps a stage."""
    table = small_recipe.model_dump()
    for stage in table["stages"].values():
        stage["steps"] = STEPS
    return Recipe.model_validate(table)


@pytest.fixture(scope="session")
def alone(
    recipe: Recipe, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, StageResult]]:
    """Every stage by one process: where it is, and what came of it."""
    found: dict[str, tuple[Path, StageResult]] = {}
    root, base = tmp_path_factory.mktemp("alone"), None
    for stage in STAGES:
        out = root / stage
        found[stage] = (out, local.run(recipe, stage=stage, corpus=corpus, base=base, out=out))
        base = out
    return found


@pytest.fixture
def place(recipe: Recipe, corpus: Path, alone: dict[str, tuple[Path, StageResult]], tmp_path: Path) -> Place:
    """Where gangs of a test work on stage 4."""
    return Place(recipe=recipe, corpus=corpus, base=alone["stage3_instruct"][0], folder=tmp_path)

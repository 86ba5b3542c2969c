"""A picture that cannot be read: within the recipe's budget its samples are left out, counted and named."""

import json
import shutil
from pathlib import Path

import pytest

from vilam3.errors import DataError, PreemptedError
from vilam3.recipe import Recipe
from vilam3.train import gang, local
from vilam3.train.order import Order
from vilam3.train.peers import Peers
from vilam3.train.record import StageResult, read_stage

STAGE = "stage1_align"


@pytest.fixture
def damaged(corpus: Path, tmp_path: Path) -> Path:
    """Of the twelve captions' pictures one is cut short and one is missing."""
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    whole = (copy / "images" / "3.png").read_bytes()
    (copy / "images" / "3.png").write_bytes(whole[: len(whole) // 2])
    (copy / "images" / "5.png").unlink()
    return copy


def allowing(recipe: Recipe, most: int, **changes: object) -> Recipe:
    table = recipe.model_dump()
    table["stages"][STAGE] |= {"corrupt_images_max": most, **changes}
    return Recipe.model_validate(table)


def trained(recipe: Recipe, corpus: Path, out: Path) -> StageResult:
    return local.run(recipe, stage=STAGE, corpus=corpus, base=None, out=out)


def test_without_a_budget_the_first_one_stops_the_stage(recipe: Recipe, damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images/[35]\.png: cannot be read as an image"):
        trained(recipe, damaged, tmp_path / "out")


def test_within_the_budget_they_are_left_out_and_named(recipe: Recipe, damaged: Path, tmp_path: Path) -> None:
    """Eight steps of four are more than twice all captions, so that both are met again and again."""
    found = trained(allowing(recipe, 2), damaged, tmp_path / "out")
    assert found.skipped == ("captions-3", "captions-5")
    assert read_stage(tmp_path / "out").skipped == found.skipped
    assert found.steps == 8


def test_beyond_the_budget_the_stage_stops_and_names_them(recipe: Recipe, damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 samples .* corrupt_images_max=1: captions-3, captions-5; mend or remove"):
        trained(allowing(recipe, 1), damaged, tmp_path / "out")


def test_a_whole_corpus_names_none(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    assert trained(allowing(recipe, 2), corpus, tmp_path / "out").skipped == ()


class StopsOnce:
    """Asks a member to end after a step."""

    def __init__(self, after: int) -> None:
        """Of that number."""
        self._after = after
        self._step = 0

    def report(self, step: int, steps: int, loss: float, seconds_left: float) -> None:
        """Remember how far it is."""
        assert steps
        assert loss >= 0
        assert seconds_left >= 0
        self._step = step

    def should_stop(self) -> bool:
        """From that step on."""
        return self._step >= self._after


def test_who_goes_on_counts_none_of_them_again(recipe: Recipe, damaged: Path, tmp_path: Path) -> None:
    """Of a gang of one: seven steps meet both; the eighth alone might not."""
    order = Order(
        recipe=allowing(recipe, 2).resolved_json(),
        stage=STAGE,
        corpus=str(damaged),
        base="",
        out=tmp_path / "out",
        strategy="ddp",
        checkpoints=(tmp_path / "checkpoints").as_uri(),
        runs=None,
    )
    with pytest.raises(PreemptedError):
        gang.take_part(order, peers=Peers(), control=StopsOnce(after=6))
    manifest = json.loads(max((tmp_path / "checkpoints").rglob("manifest.json")).read_text())
    assert manifest["position"]["skipped"] == ["captions-3", "captions-5"]
    found = gang.take_part(order, peers=Peers(), control=StopsOnce(after=99))
    assert found.skipped == ("captions-3", "captions-5")

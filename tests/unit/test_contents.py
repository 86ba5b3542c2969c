"""What lies at the places that a run is given, and which corpus is meant."""

import json
from pathlib import Path

import pytest

from vilam3.contents import check_corpus, contents_of, corpus_digest
from vilam3.errors import DataError, RecipeError
from vilam3.recipe import load, overridden

TINY = Path(__file__).parents[2] / "pipelines" / "recipes" / "tiny.toml"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "samples").mkdir(parents=True)
    (folder / "corpus.json").write_text(json.dumps({"digest": "abc"}), encoding="utf-8")
    (folder / "samples" / "vqa.json").write_text("[]", encoding="utf-8")
    return folder


def test_contents_change_with_any_file_and_not_otherwise(corpus: Path) -> None:
    before = contents_of({"corpus": str(corpus)})
    assert contents_of({"corpus": str(corpus)}) == before
    assert contents_of({"corpus": corpus.as_uri(), "base": ""}) == before
    assert contents_of({"base": str(corpus)}) != before
    (corpus / "samples" / "vqa.json").write_text("[0]", encoding="utf-8")
    assert contents_of({"corpus": str(corpus)}) != before


def test_a_place_that_nobody_here_can_read_is_new_each_time() -> None:
    assert contents_of({"corpus": "gs://bucket/corpus"}) != contents_of({"corpus": "gs://bucket/corpus"})


def test_a_place_without_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"base .*there is nothing"):
        contents_of({"base": str(tmp_path / "none")})


def test_the_corpus_that_is_meant_is_held_to(corpus: Path, tmp_path: Path) -> None:
    assert corpus_digest(str(corpus)) == "abc"
    check_corpus(str(corpus), "abc")
    with pytest.raises(DataError, match=r"corpus_digest=def: .* is abc"):
        check_corpus(str(corpus), "def")
    with pytest.raises(DataError, match=r"has no corpus\.json"):
        corpus_digest(str(tmp_path / "none"))
    (corpus / "corpus.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match="states no digest"):
        corpus_digest(str(corpus))


def test_overrides_replace_values_and_count_as_a_later_file() -> None:
    recipe = load([TINY])
    stage = overridden(recipe, "[stages.stage4_expert]\nlearning_rate = 1e-5\nepochs = 3").stage("stage4_expert")
    assert (stage.learning_rate, stage.epochs, stage.steps) == (1e-5, 3, None)
    assert overridden(recipe, "") == recipe


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("learning_rate", "recipe overrides: not valid TOML"),
        ("stages.stage4_expert.learning_rat = 1", "did you mean 'learning_rate'"),
        ("resources.gpus = 4", "resources are fixed when a pipeline is compiled"),
    ],
)
def test_overrides_that_cannot_be_are_refused(overrides: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        overridden(load([TINY]), overrides)

"""Rules of triggers: all are reasons to look, and what is there decides."""

import os
from pathlib import Path

import pytest

from tests.unit.intake.installation import PIPELINE, STAGE, TINY, Starter, intake, write_base, write_corpus
from vilam3.errors import DataError
from vilam3.intake.intake import Intake
from vilam3.intake.notices import Landed
from vilam3.intake.triggers import Standing, Triggers
from vilam3.recipe import load


def _standing(root: Path, *, corpus: str = "", watch: str = "") -> Standing:
    return Standing(
        pipeline=PIPELINE,
        stages=(STAGE,),
        recipe=load([TINY]).resolved_json(),
        base_checkpoint=str(write_base(root / "base")),
        experts="s3://data/experts",
        corpus=corpus,
        watch=watch,
    )


@pytest.fixture
def starter() -> Starter:
    return Starter()


@pytest.fixture
def way_in(tmp_path: Path, starter: Starter) -> Intake:
    return intake(tmp_path, starter)


def _arrives(folder: Path, name: str, *, at_s: int) -> None:
    write_corpus(folder / name, digest=name)
    os.utime(folder / name / "corpus.json", (at_s, at_s))


def test_a_look_asks_for_the_newest_corpus_once(tmp_path: Path, way_in: Intake, starter: Starter) -> None:
    watched = tmp_path / "corpora"
    triggers = Triggers(intake=way_in, standing=_standing(tmp_path, watch=watched.as_uri()))
    assert triggers.look() == []
    _arrives(watched, "b-older", at_s=1_000)
    _arrives(watched, "a-newer", at_s=2_000)
    (watched / "unfinished").mkdir()
    assert [answer.decision for answer in triggers.look()] == ["started"]
    assert starter.events[0].places.corpus == f"{watched.as_uri()}/a-newer"
    assert [answer.decision for answer in triggers.look()] == ["already"]
    _arrives(watched, "c-newest", at_s=3_000)
    assert [answer.decision for answer in triggers.look()] == ["started"]
    assert len(starter.runs) == 2


def test_a_corpus_that_is_written_again_is_new_data(tmp_path: Path, way_in: Intake, starter: Starter) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    triggers = Triggers(intake=way_in, standing=_standing(tmp_path, corpus=str(corpus)))
    assert [triggers.look()[0].decision, triggers.look()[0].decision] == ["started", "already"]
    write_corpus(corpus, digest="d2")
    assert triggers.look()[0].decision == "started"
    assert len(starter.runs) == 2


def test_the_manifest_of_a_watched_corpus_is_news_and_nothing_else_is(tmp_path: Path) -> None:
    standing = _standing(tmp_path, watch="s3://data/corpora/")
    assert standing.corpus_of("s3://data/corpora/october/corpus.json") == "s3://data/corpora/october"
    for other in (
        "s3://data/corpora/october/images/a.png",
        "s3://data/corpora/october/deeper/corpus.json",
        "s3://data/elsewhere/october/corpus.json",
        "s3://other/corpora/october/corpus.json",
        "corpus.json",
    ):
        assert standing.corpus_of(other) is None
    fixed = _standing(tmp_path, corpus="s3://data/corpora/october")
    assert fixed.corpus_of("s3://data/corpora/october/corpus.json") == "s3://data/corpora/october"
    assert fixed.corpus_of("s3://data/corpora/november/corpus.json") is None


def test_notices_of_other_objects_ask_for_nothing(tmp_path: Path, way_in: Intake, starter: Starter) -> None:
    triggers = Triggers(intake=way_in, standing=_standing(tmp_path, watch="s3://data/corpora"))
    assert triggers.objects_landed([Landed(bucket="data", key="corpora/october/images/a.png")]) == []
    assert triggers.base_moved("models:/vilam3@champion") == []
    assert triggers.base_moved(None) == []
    assert starter.runs == []


def test_what_nobody_names_is_said(tmp_path: Path, way_in: Intake) -> None:
    standing = _standing(tmp_path)
    with pytest.raises(DataError, match="corpus: neither the event nor the installation names it"):
        standing.event("rest")
    assert Triggers(intake=way_in, standing=standing).look() == []

"""Choosing among checkpoints, and the conversations that are kept."""

import json
from pathlib import Path

import pytest

from tests.unit.evaluate import clinic
from vilam3.evaluate import assess
from vilam3.evaluate.examples import first_of_each_expert, read_examples, write_examples
from vilam3.evaluate.run import Examination, examination
from vilam3.evaluate.scores import Score, read_scores, write_scores


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Examination:
    return examination(clinic.corpus(tmp_path_factory.mktemp("corpus")), split="test")


def test_the_checkpoints_of_a_stage_are_those_kept_and_the_final_one(tmp_path: Path) -> None:
    for step in (200, 100):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    names = [path.name for path in assess.candidates_of(tmp_path)]
    assert names == ["step-00000100", "step-00000200", tmp_path.name]


def test_examples_are_chosen_by_order_and_kept_whole(asked: Examination, tmp_path: Path) -> None:
    """One for each expert, whatever came of it, with every picture and no others."""
    assert [question.expert for question in first_of_each_expert(asked)] == ["CXR", "VISTA3D"]
    write_examples(asked, clinic.asker(), tmp_path / "examples")
    (folder, talk), (_, other) = read_examples(tmp_path / "examples")
    assert talk["is_right"]
    assert [message["role"] for message in talk["messages"]] == ["user", "assistant", "expert", "expert", "assistant"]
    named = {name for message in talk["messages"] for name in message["images"]}
    assert {path.name for path in folder.glob("*.png")} == named == {"0-0.png", "2-0.png"}
    assert other["expert_calls"][0]["argument"] == "organs"
    assert json.dumps(talk)


def test_rounds_are_counted_as_one() -> None:
    seen: list[tuple[int, int]] = []
    tell = assess._counter(lambda done, total: seen.append((done, total)), total=5)
    for size in (2, 3):
        report = tell()
        for done in range(1, size + 1):
            report(done, size)
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_scores_of_checkpoints_are_kept_as_they_are(tmp_path: Path) -> None:
    scores = [Score(checkpoint="step-00000025", accuracy=0.5, is_chosen=False)]
    write_scores(scores, tmp_path)
    assert read_scores(tmp_path) == scores
    write_scores([], tmp_path)
    assert read_scores(tmp_path) == []

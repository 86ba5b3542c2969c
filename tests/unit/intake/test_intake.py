"""The rules of one run: the same content is the same run, nothing is lost, and what must wait waits."""

import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.unit.intake.installation import Starter, event, intake, write_base, write_corpus
from vilam3.errors import DataError, EngineError, RecipeError, UserError
from vilam3.intake.intake import Intake
from vilam3.intake.rules import Rules

LONG_S = 3600.0


@pytest.fixture
def starter() -> Starter:
    return Starter()


@pytest.fixture
def plain(tmp_path: Path, starter: Starter) -> Intake:
    return intake(tmp_path, starter)


def test_the_same_event_a_hundred_times_is_one_run(tmp_path: Path, starter: Starter) -> None:
    """From ten threads with an intake each, as processes of several installations would."""
    told: list[str] = []

    def ask() -> None:
        mine = intake(tmp_path, starter)
        told.extend(mine.submit(event(tmp_path)).decision for _ in range(10))

    event(tmp_path)
    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(told) == {"started": 1, "already": 99}
    assert len(starter.runs) == 1


def test_the_same_content_under_another_name_is_the_same_run(tmp_path: Path, plain: Intake, starter: Starter) -> None:
    first = plain.submit(event(tmp_path))
    write_corpus(tmp_path / "copy")
    write_base(tmp_path / "other-base")
    second = plain.submit(event(tmp_path, corpus="copy", base="other-base"))
    assert (first.decision, second.decision) == ("started", "already")
    assert first.run == second.run
    assert len(starter.runs) == 1


@pytest.mark.parametrize("changed", ["data", "base", "recipe"])
def test_other_content_is_another_run(tmp_path: Path, plain: Intake, starter: Starter, changed: str) -> None:
    first = plain.submit(event(tmp_path))
    other = event(tmp_path)
    if changed == "data":
        write_corpus(tmp_path / "corpus", digest="d2")
    elif changed == "base":
        write_base(tmp_path / "base", weights="w2")
    else:
        recipe = other.resolved().model_copy(update={"seed": 7})
        other = other.model_copy(update={"recipe": recipe.resolved_json()})
    second = plain.submit(other)
    assert second.decision == "started"
    assert second.key != first.key
    assert len(starter.runs) == 2


def test_a_run_that_was_made_but_never_answered_for_is_found(tmp_path: Path, plain: Intake, starter: Starter) -> None:
    starter.fails_after = 1
    with pytest.raises(EngineError):
        plain.submit(event(tmp_path))
    assert plain.submit(event(tmp_path)).decision == "already"
    assert len(starter.runs) == 1


def test_an_event_whose_start_failed_is_taken_up_later(tmp_path: Path, plain: Intake, starter: Starter) -> None:
    starter.fails_before = 1
    with pytest.raises(EngineError):
        plain.submit(event(tmp_path))
    assert [answer.decision for answer in plain.take_up()] == ["started"]
    assert plain.take_up() == []
    assert len(starter.runs) == 1


def test_a_cool_down_holds_and_lets_go(tmp_path: Path, starter: Starter) -> None:
    cooling = intake(tmp_path, starter, rules=Rules(cool_down_s=LONG_S))
    cooling.submit(event(tmp_path))
    write_corpus(tmp_path / "new", digest="d2")
    held = cooling.submit(event(tmp_path, corpus="new"))
    assert held.decision == "held"
    assert held.held_until is not None
    assert "less than 3600 s ago" in held.reason
    assert [answer.decision for answer in cooling.take_up()] == ["held"]
    assert [answer.decision for answer in intake(tmp_path, starter).take_up()] == ["started"]
    assert len(starter.runs) == 2


def test_no_more_runs_at_once_than_allowed(tmp_path: Path, starter: Starter) -> None:
    narrow = intake(tmp_path, starter, rules=Rules(most_at_once=1))
    first = narrow.submit(event(tmp_path))
    write_corpus(tmp_path / "new", digest="d2")
    held = narrow.submit(event(tmp_path, corpus="new"))
    assert (held.decision, held.held_until) == ("held", None)
    assert first.run is not None
    starter.end(first.run.name, succeeded=True)
    assert [answer.decision for answer in narrow.take_up()] == ["started"]


def test_different_events_at_once_keep_to_the_bound(tmp_path: Path, starter: Starter) -> None:
    """Ten contents at the same time, and two may run."""
    events = []
    for number in range(10):
        write_corpus(tmp_path / f"corpus-{number}", digest=f"d{number}")
        events.append(event(tmp_path, corpus=f"corpus-{number}"))
    told: list[str] = []

    def ask(number: int) -> None:
        told.append(intake(tmp_path, starter, rules=Rules(most_at_once=2)).submit(events[number]).decision)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(told) == {"started": 2, "held": 8}
    assert len(starter.runs) == 2


def test_another_run_of_the_same_content_only_where_the_last_has_failed(
    tmp_path: Path, plain: Intake, starter: Starter
) -> None:
    first = plain.submit(event(tmp_path))
    assert first.run is not None
    assert plain.submit(event(tmp_path), again=True).decision == "refused"
    starter.end(first.run.name, succeeded=False)
    assert plain.submit(event(tmp_path)).decision == "already"
    told = [plain.submit(event(tmp_path), again=True) for _ in range(5)]
    assert [answer.decision for answer in told] == ["started", *["refused"] * 4]
    assert [run.name for run in starter.runs] == [first.run.name, f"{first.run.name}-2"]
    starter.end(f"{first.run.name}-2", succeeded=True)
    assert "is succeeded" in plain.submit(event(tmp_path), again=True).reason


def test_an_event_whose_content_has_gone_starts_nothing(tmp_path: Path, starter: Starter) -> None:
    """A run would take what lies there now; that is another event."""
    intake(tmp_path, starter, rules=Rules(most_at_once=1)).submit(event(tmp_path))
    write_corpus(tmp_path / "new", digest="d2")
    narrow = intake(tmp_path, starter, rules=Rules(most_at_once=1))
    assert narrow.submit(event(tmp_path, corpus="new")).decision == "held"
    write_corpus(tmp_path / "new", digest="d3")
    wide = intake(tmp_path, starter)
    assert [answer.decision for answer in wide.take_up()] == ["refused"]
    assert wide.take_up() == []
    assert len(starter.runs) == 1


def test_an_event_whose_corpus_was_removed_does_not_stand_in_the_way(tmp_path: Path, starter: Starter) -> None:
    narrow = intake(tmp_path, starter, rules=Rules(most_at_once=1))
    narrow.submit(event(tmp_path))
    for name in ("first", "second"):
        write_corpus(tmp_path / name, digest=name)
        narrow.submit(event(tmp_path, corpus=name))
    (tmp_path / "first" / "corpus.json").unlink()
    assert [answer.decision for answer in intake(tmp_path, starter).take_up()] == ["started"]


def test_a_dry_run_estimates_and_keeps_nothing(tmp_path: Path, plain: Intake, starter: Starter) -> None:
    answer = plain.submit(event(tmp_path), dry_run=True)
    assert answer.decision == "dry-run"
    assert answer.estimate.steps == event(tmp_path).resolved().stage("stage4_expert").steps
    assert answer.estimate.gpu_hours is not None
    assert answer.estimate.gpu_hours > 0
    assert (starter.runs, plain.take_up()) == ([], [])


def test_what_is_not_there_is_the_callers_mistake(tmp_path: Path, plain: Intake) -> None:
    given = event(tmp_path)
    (tmp_path / "corpus" / "corpus.json").unlink()
    with pytest.raises(DataError, match=r"has no corpus\.json"):
        plain.submit(given)
    (tmp_path / "corpus" / "corpus.json").write_text("[1]")
    with pytest.raises(DataError, match="states no digest"):
        plain.submit(given)
    with pytest.raises(RecipeError):
        plain.submit(given.model_copy(update={"recipe": "{}"}))
    with pytest.raises(UserError, match="must not be negative"):
        Rules(cool_down_s=-1)


def test_what_states_no_digest_is_named_by_its_files(tmp_path: Path, plain: Intake) -> None:
    """A published checkpoint carries none; a change of a file is noticed all the same."""
    given = event(tmp_path)
    (tmp_path / "base" / "digests.json").unlink()
    (tmp_path / "base" / "weights").write_bytes(b"1234")
    first = plain.submit(given, dry_run=True)
    assert plain.submit(given, dry_run=True).key == first.key
    (tmp_path / "base" / "weights").write_bytes(b"12345")
    assert plain.submit(given, dry_run=True).key != first.key

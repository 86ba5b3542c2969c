"""Experts of one reply: side by side, watched, and ended by the clock, the reader or the budget."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.unit.serving.fakes import RuleEngine, SlowExperts
from vilam3.consultant import Consultant
from vilam3.data.study import Study, study_of
from vilam3.dialogue.bounds import Bounds
from vilam3.dialogue.drive import answer
from vilam3.dialogue.events import Event, ExpertFinished, ExpertProgressed, ExpertStarted
from vilam3.dialogue.loop import Transcript


@pytest.fixture
def study() -> Study:
    return study_of(modality="CT", radiograph_HW=np.zeros((4, 4), np.uint8))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def held(experts: SlowExperts, study: Study, question: str, bounds: Bounds) -> tuple[Transcript, list[Event]]:
    consultant = Consultant(engine=RuleEngine(), experts=experts)
    events: list[Event] = []
    transcript = answer(
        consultant.asking(question, study),
        consultant.engine,
        consultant.ask_on(study),
        consultant.grammar(several=True),
        on_event=events.append,
        bounds=bounds,
    )
    return transcript, events


def test_experts_of_one_reply_run_side_by_side(study: Study, pool: ThreadPoolExecutor) -> None:
    began = time.monotonic()
    transcript, events = held(SlowExperts(seconds=0.5), study, "both", Bounds(pool=pool))
    assert time.monotonic() - began < 0.9
    assert [outcome.call.expert for outcome in transcript.outcomes] == ["VISTA3D", "CXR"]
    told = [type(event) for event in events if isinstance(event, ExpertStarted | ExpertFinished)]
    assert told == [ExpertStarted, ExpertStarted, ExpertFinished, ExpertFinished]
    assert [event.index for event in events if isinstance(event, ExpertStarted)] == [0, 1]


def test_no_more_run_at_a_time_than_may(study: Study, pool: ThreadPoolExecutor) -> None:
    _, events = held(SlowExperts(seconds=0.1), study, "both", Bounds(pool=pool, side_by_side=1))
    told = [type(event) for event in events if isinstance(event, ExpertStarted | ExpertFinished)]
    assert told == [ExpertStarted, ExpertFinished] * 2


@pytest.mark.parametrize("in_a_pool", [True, False])
def test_progress_is_told_at_most_four_times_a_second(
    study: Study, pool: ThreadPoolExecutor, *, in_a_pool: bool
) -> None:
    bounds = Bounds(pool=pool if in_a_pool else None)
    _, events = held(SlowExperts(seconds=0.9), study, "tumor?", bounds)
    fractions = [event.fraction for event in events if isinstance(event, ExpertProgressed)]
    assert 2 <= len(fractions) <= 4
    assert fractions == sorted(set(fractions))
    assert all(0 < fraction <= 1 for fraction in fractions)


@pytest.mark.parametrize("in_a_pool", [True, False])
def test_a_reader_who_leaves_stops_the_expert_within_a_second(
    study: Study, pool: ThreadPoolExecutor, *, in_a_pool: bool
) -> None:
    cancelled, experts = threading.Event(), SlowExperts(seconds=30)
    threading.Timer(0.2, cancelled.set).start()
    began = time.monotonic()
    transcript, _ = held(experts, study, "both", Bounds(pool=pool if in_a_pool else None, cancelled=cancelled))
    pool.shutdown(wait=True)  # returns only when the experts have really stopped
    assert time.monotonic() - began < 1.2
    assert transcript.ending == "cancelled"


@pytest.mark.parametrize("looks", [True, False])
def test_all_experts_of_an_answer_share_one_budget_and_the_model_is_told(
    study: Study, pool: ThreadPoolExecutor, *, looks: bool
) -> None:
    """One that looks at its watch stops; one that does not is left behind. The answer goes on without both."""
    experts, began = SlowExperts(seconds=3, looks=looks), time.monotonic()
    transcript, _ = held(experts, study, "both", Bounds(pool=pool, expert_seconds=0.6))
    assert time.monotonic() - began < 1.0
    assert (transcript.ending, transcript.answer) == ("answered", "unknown")
    assert [outcome.error for outcome in transcript.outcomes] == [
        "the time that all experts of one answer may take together, 0.6 s, is used up."
    ] * 2


def test_a_budget_that_is_used_up_lets_no_further_expert_begin(study: Study, pool: ThreadPoolExecutor) -> None:
    experts = SlowExperts(seconds=0.3)
    transcript, _ = held(experts, study, "forever", Bounds(pool=pool, expert_seconds=0.5))
    assert len(experts.calls) == 2
    assert "is used up" in transcript.outcomes[-1].error
    assert len(transcript.outcomes) == 4

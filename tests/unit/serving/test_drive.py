"""The driver: bounds, events, and the same dialogue one by one and in batches."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.unit.serving.fakes import RuleEngine, SlowExperts
from vilam3.consultant import Consultant, with_modality
from vilam3.data.study import Study, study_of
from vilam3.dialogue.bounds import Bounds
from vilam3.dialogue.drive import answer, answer_batch
from vilam3.dialogue.events import Event, ExpertStarted, TextPiece
from vilam3.dialogue.loop import Transcript
from vilam3.errors import EngineError


@pytest.fixture
def study() -> Study:
    return study_of(modality="CT", radiograph_HW=np.zeros((4, 4), np.uint8))


def held(consultant: Consultant, study: Study, question: str, **bounds: object) -> tuple[Transcript, list[Event]]:
    events: list[Event] = []
    transcript = answer(
        consultant.asking(question, study),
        consultant.engine,
        consultant.ask_on(study),
        consultant.grammar(),
        on_event=events.append,
        bounds=Bounds(**bounds),  # type: ignore[arg-type]  # what a test sets
    )
    return transcript, events


def test_batched_and_single_dialogues_are_the_same(study: Study) -> None:
    consultant = Consultant(engine=RuleEngine(), experts=SlowExperts())
    questions = ["tumor?", "the pancreas?", "forever", "chest?", "everything"]
    askings = [consultant.asking(question, study) for question in questions]
    asks = [consultant.ask_on(study)] * len(askings)
    batched = answer_batch(askings, consultant.engine, asks, consultant.grammar())
    for question, transcript in zip(questions, batched, strict=True):
        alone, _ = held(consultant, study, question)
        assert [message.text for message in alone.messages] == [message.text for message in transcript.messages]
        assert (alone.answer, alone.ending) == (transcript.answer, transcript.ending)


def test_events_carry_the_whole_reply(study: Study) -> None:
    transcript, events = held(Consultant(engine=RuleEngine(), experts=SlowExperts()), study, "tumor?")
    said = "".join(event.text for event in events if isinstance(event, TextPiece) and event.round_index == 1)
    assert said == transcript.answer == "yes"


def test_cancelling_stops_between_tokens(study: Study) -> None:
    cancelled = threading.Event()
    consultant = Consultant(engine=RuleEngine(token_s=0.01))
    threading.Timer(0.1, cancelled.set).start()
    transcript, events = held(consultant, study, "essay", cancelled=cancelled)
    assert transcript.ending == "cancelled"
    assert 0 < len(events) < 60
    assert transcript.answer == "".join(event.text for event in events if isinstance(event, TextPiece))


def test_no_expert_starts_after_cancelling(study: Study) -> None:
    cancelled = threading.Event()
    experts = SlowExperts(seconds=0.2)
    consultant = Consultant(engine=RuleEngine(), experts=experts)
    threading.Timer(0.05, cancelled.set).start()
    with ThreadPoolExecutor(1) as pool:
        transcript, _ = held(consultant, study, "forever", cancelled=cancelled, pool=pool)
    assert transcript.ending == "cancelled"
    assert len(experts.calls) == 1


def test_the_deadline_leaves_a_slow_expert_behind(study: Study) -> None:
    consultant = Consultant(engine=RuleEngine(), experts=SlowExperts(seconds=0.5))
    with ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        transcript, events = held(consultant, study, "tumor?", deadline=started + 0.1, pool=pool)
        assert time.monotonic() - started < 0.3
    assert transcript.ending == "deadline"
    assert "<VISTA3D(hepatic tumor)>" in transcript.answer
    assert "did not finish" in transcript.outcomes[0].error
    assert sum(isinstance(event, ExpertStarted) for event in events) == 1


def test_without_experts_nothing_is_a_call(study: Study) -> None:
    transcript, _ = held(Consultant(engine=RuleEngine()), study, "forever")
    assert (transcript.ending, transcript.outcomes) == ("answered", ())


def test_an_engine_that_ends_without_result_is_an_error(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object, **__: object) -> object:
        return (word for word in ["a"])

    monkeypatch.setattr(RuleEngine, "stream", nothing)
    with pytest.raises(EngineError, match="without a result"):
        held(Consultant(engine=RuleEngine()), study, "tumor?")


def test_the_question_names_the_modality_only_where_the_file_does_not() -> None:
    picture = study_of(modality="Unknown", radiograph_HW=np.zeros((4, 4), np.uint8))
    named = with_modality(picture, None, question="What does this chest X-ray show?")
    assert named.modality == "CXR"
    assert named.digest != picture.digest
    assert with_modality(named, None, question="this CT image").modality == "CXR"
    assert with_modality(named, "CT", question="").modality == "CT"
    assert with_modality(picture, None, question="What is it?") is picture

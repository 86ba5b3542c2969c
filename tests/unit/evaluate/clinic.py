"""A small held-out corpus and an asker whose answers follow from what it is shown: a fake with behaviour.

A radiograph is bright where there is a finding. The engine sees only words: alone it says "no", with experts it calls
CXR (or, for a question about the liver, the wrong argument of VISTA3D) and repeats what the expert found.
"""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vilam3.consultant import Consultant
from vilam3.data.llava import write_questions
from vilam3.data.sample import Question
from vilam3.data.study import Study
from vilam3.dialogue.messages import EngineStats, Generation, Message, Sampling
from vilam3.dialogue.tickets import StreamTicket
from vilam3.experts.protocol import ExpertCall, ExpertResult, Point, Provenance, Watch, unwatched
from vilam3.experts.trigger import Grammar

CARDS = "<CXR()> and <VISTA3D(hepatic tumor|organs)> may be called. "
PATIENTS = 12


class RuleEngine:
    """Answers by rule; counts the batches it was given, and notes of what task they were."""

    name = "rules"

    def __init__(self) -> None:
        """No batch yet."""
        self.batches: list[int] = []
        self.tasks: list[str] = []

    def generate(self, batch: Sequence[Sequence[Message]], sampling: Sampling) -> list[Generation]:
        """One reply for each conversation."""
        self.batches.append(len(batch))
        self.tasks.append(sampling.task)
        return [_generation(_reply(messages)) for messages in batch]

    def submit(self, messages: Sequence[Message], sampling: Sampling, *, priority: int = 0) -> StreamTicket:  # noqa: ARG002 - it has no queue
        """See `vilam3.dialogue.messages.Engine`."""
        return StreamTicket(lambda cancelled: self.stream(messages, sampling, cancelled=cancelled))

    def stats(self) -> EngineStats:
        """See `vilam3.dialogue.messages.Engine`."""
        return EngineStats()

    def close(self) -> None:
        """See `vilam3.dialogue.messages.Engine`."""

    def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,  # noqa: ARG002 - of the protocol
        *,
        cancelled: threading.Event | None = None,  # noqa: ARG002 - likewise
    ) -> Iterator[str | Generation]:
        """The same reply in one piece."""
        reply = _reply(messages)
        yield reply
        yield _generation(reply)


class BrightnessExperts:
    """Says whether a radiograph is bright; counts how often it looks."""

    def __init__(self) -> None:
        """No look yet."""
        self.looks = 0

    def grammar(self, *, several: bool = False) -> Grammar:
        """CXR without and VISTA3D with arguments."""
        return Grammar({"CXR": (), "VISTA3D": ("hepatic tumor", "organs")}, several=several)

    def cards(self) -> str:
        """What opens a question."""
        return CARDS

    def model_of(self, name: str) -> str:
        """It never changes."""
        return name

    def run(
        self,
        call: ExpertCall,
        study: Study,
        *,
        slice_index: int | None = None,
        points: Sequence[Point] = (),  # noqa: ARG002 - of the protocol; it takes none
        watch: Watch = unwatched,  # noqa: ARG002 - of the protocol; it takes no time
    ) -> ExpertResult:
        """Look at the picture."""
        self.looks += 1
        assert study.radiograph_HW is not None
        found = "yes" if study.radiograph_HW.mean() > 128 else "no"
        provenance = Provenance(
            expert=call.expert,
            version="1",
            weights_digest="0",
            argument=call.argument,
            study_digest=study.digest,
            series=study.series,
            slice_index=slice_index,
            seconds=0.0,
            created_at="2026-01-01T00:00:00Z",
        )
        overlay = Image.new("RGB", (8, 8)) if call.expert == "CXR" else None
        return ExpertResult(
            text=f"finding: {found} {'<image>' if overlay else ''}", provenance=provenance, overlay=overlay
        )


def asker() -> Consultant:
    """A fresh fake of each."""
    return Consultant(engine=RuleEngine(), experts=BrightnessExperts(), dialect="training", model_name="rules")


def corpus(root: Path) -> Path:
    """Twelve patients: half bright; each asked for a finding, the first also for a segmentation and about a word."""
    questions: list[Question] = []
    for number in range(PATIENTS):
        patient, is_bright = f"cxr-{number}", number % 2 == 0
        study = root / "studies" / patient
        study.mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 200 + number if is_bright else 40 + number, np.uint8)).save(study / "image.png")
        questions.append(_question(patient, "cxr_finding", "Is there effusion?", "yes" if is_bright else "no", "CXR"))
    questions += [
        _question("cxr-0", "segment", "Segment the organs", "I segmented <vista3d(organs)>.", "VISTA3D", "organs"),
        _question("cxr-1", "word", "Which organ is hepatic?", "no", ""),
        _question("cxr-2", "liver", "Is there a tumor in the liver?", "yes", "VISTA3D", "hepatic tumor"),
    ]
    write_questions(root / "questions" / "test.jsonl", questions)
    return root


def _question(patient: str, task: str, text: str, answer: str, expert: str, argument: str = "") -> Question:
    return Question(
        question_id=f"{patient}-{task}",
        task=task,
        patient=patient,
        study=f"studies/{patient}",
        modality="CXR",
        text=text,
        answer=answer,
        expert=expert,
        argument=argument,
    )


def _reply(messages: Sequence[Message]) -> str:
    first, last = messages[0].text, messages[-1].text
    if CARDS not in first:
        return "no"
    if len(messages) > 1:
        return next((word for word in ("yes", "no") if f"finding: {word}" in last), "I cannot say.")
    if "Segment" in first:
        return "I segmented <VISTA3D(organs)>."
    if "liver" in first:
        return "Let me trigger <VISTA3D(organs)>."
    return "Let me trigger <CXR()>." if "effusion" in first else "no"


def _generation(text: str) -> Generation:
    return Generation(text=text, prompt_tokens=1, completion_tokens=1, finish_reason="stop")

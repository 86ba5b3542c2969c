"""An engine and experts that behave like the real ones and cost nothing."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from vilam3.data.study import Study
from vilam3.dialogue.messages import EngineStats, Generation, Message, Sampling
from vilam3.dialogue.tickets import StreamTicket
from vilam3.errors import ExpertError
from vilam3.experts.facts import CARDS as PUBLISHED_CARDS
from vilam3.experts.protocol import (
    ExpertCall,
    ExpertResult,
    LabelMap,
    Measurement,
    Point,
    Provenance,
    Watch,
    model_of,
    unwatched,
)
from vilam3.experts.trigger import Grammar

log = logging.getLogger(__name__)

CARDS = "Here is a list of available expert models:\n<VISTA3D(args)> segments, <CXR()> reads radiographs\n"
MODEL = {"version": "1", "weights_digest": "0" * 64}
NOVEL_WORDS = 20_000
TRIGGER = "This looks like a CT image. Let me trigger <VISTA3D({argument})>."


@dataclass(slots=True, kw_only=True)
class RuleEngine:
    """Consults when it is shown model cards and a picture, and answers by what the expert said.

    Words of the question steer it: ``pancreas`` asks for an argument that fails, ``forever`` calls experts without
    end, ``both`` calls two at once, ``everything`` asks for an argument, ``essay`` gives a long answer and ``novel`` a
    very long one, ``chest`` asks for the radiograph expert.
    """

    name: str = "rules"
    token_s: float = 0.0
    lacking: str = ""  # why it has failed for good
    seen: list[tuple[Message, ...]] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)

    def reply(self, messages: Sequence[Message]) -> str:
        """What is said next."""
        newest, cards, asked = messages[-1].text, *_split(messages[-1].text)
        if "forever" in asked or (cards and messages[-1].images):
            if "both" in asked:
                return f"{TRIGGER.format(argument=_argument(asked))} And <CXR()>."
            return TRIGGER.format(argument=_argument(asked)) if "chest" not in asked else "I call <CXR()>."
        if "could not be used" in newest:
            return "unknown"
        if "novel" in newest:
            return " ".join(f"finding{number}" for number in range(NOVEL_WORDS))
        if "essay" in newest:
            return " ".join(f"finding{number}" for number in range(60))
        return "yes" if "hepatic tumor" in newest and "red:" in newest else "no"

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, *, cancelled: threading.Event | None = None
    ) -> Iterator[str | Generation]:
        """See `vilam3.dialogue.messages.Engine`."""
        self.seen.append(tuple(messages))
        self.samplings.append(sampling)
        words = self.reply(messages).split(" ")
        said = ""
        for number, word in enumerate(words):
            if cancelled is not None and cancelled.is_set():
                yield _generation(messages, said, "cancelled")
                return
            time.sleep(self.token_s)
            log.debug("token")
            piece = word if number == 0 else f" {word}"
            said += piece
            yield piece
        yield _generation(messages, said, "stop")

    def submit(self, messages: Sequence[Message], sampling: Sampling, *, priority: int = 0) -> StreamTicket:  # noqa: ARG002 - it has no queue
        """See `vilam3.dialogue.messages.Engine`."""
        return StreamTicket(lambda cancelled: self.stream(messages, sampling, cancelled=cancelled))

    def stats(self) -> EngineStats:
        """See `vilam3.dialogue.messages.Engine`."""
        return EngineStats()

    def close(self) -> None:
        """See `vilam3.dialogue.messages.Engine`."""

    def generate(self, batch: Sequence[Sequence[Message]], sampling: Sampling) -> list[Generation]:
        """See `vilam3.dialogue.messages.Engine`."""
        self.samplings.append(sampling)
        return [_generation(messages, self.reply(messages), "stop") for messages in batch]


@dataclass(slots=True, kw_only=True)
class SlowExperts:
    """Segments a box; may take its time, holding the processor or not."""

    seconds: float = 0.0
    holds_processor: bool = False
    looks: bool = True
    points: tuple[Point, ...] = ()
    calls: list[ExpertCall] = field(default_factory=list)

    def grammar(self, *, several: bool = False) -> Grammar:
        """See `vilam3.consultant.Experts`."""
        arguments = ("hepatic tumor", "pancreatic tumor", "everything")
        return Grammar({"VISTA3D": arguments, "CXR": ()}, several=several)

    def cards(self) -> str:
        """See `vilam3.consultant.Experts`."""
        return CARDS

    def describe(self) -> list[dict[str, Any]]:
        """See `vilam3.experts.registry.Registry`."""
        return [{"name": "VISTA3D", "modality": "CT", "arguments": ["hepatic tumor"], "card": "-", **MODEL}]

    def model_of(self, name: str) -> str:
        """See `vilam3.consultant.Experts`."""
        return model_of(MODEL["version"], MODEL["weights_digest"]) if name else ""

    def run(
        self,
        call: ExpertCall,
        study: Study,
        *,
        slice_index: int | None = None,
        points: Sequence[Point] = (),
        watch: Watch = unwatched,
    ) -> ExpertResult:
        """See `vilam3.consultant.Experts`."""
        self.calls.append(call)
        self.points = tuple(points)
        log.info("expert begins", extra={"expert": call.expert})
        self._take_time(watch)
        if call.argument == "pancreatic tumor":
            raise ExpertError("the pancreas is outside the field of view.")
        if call.argument == "everything":
            raise RuntimeError("PatientName=Doe^Planted")
        if call.expert == "CXR":
            return ExpertResult(
                text="The resulting predictions are:\nEffusion: yes\n.\n",
                scores={"Effusion": 0.9},
                provenance=provenance(call, study, slice_index),
            )
        return ExpertResult(
            text="The results are <image>. The colors in this image describe red: hepatic tumor. ",
            overlay=Image.new("RGB", (32, 32), "red"),
            mask=_box(study),
            colors={"red": "hepatic tumor"},
            measurements=(Measurement(label="hepatic tumor", quantity="volume", value=1.5, unit="ml"),),
            provenance=provenance(call, study, slice_index),
        )

    def warm_up(self) -> None:
        """Nothing to load."""

    def _take_time(self, watch: Watch) -> None:
        end = time.monotonic() + self.seconds
        while (left_s := end - time.monotonic()) > 0:
            if self.looks:
                watch(1 - left_s / self.seconds)
            if not self.holds_processor:
                time.sleep(0.01)


def provenance(call: ExpertCall, study: Study, slice_index: int | None) -> Provenance:
    """Where a fake finding comes from."""
    return Provenance(
        expert=call.expert,
        **MODEL,
        argument=call.argument,
        study_digest=study.digest,
        series=study.series,
        slice_index=slice_index,
        seconds=0.0,
        created_at="2020-01-01T00:00:00Z",
    )


def _box(study: Study) -> LabelMap | None:
    if not study.volumes:
        return None
    volume = study.volumes[0]
    ids_XYZ = np.zeros(volume.voxels_XYZ.shape, dtype=np.uint8)
    ids_XYZ[1:3, 1:3, 1:3] = 26
    return LabelMap(ids_XYZ=ids_XYZ, affine_RAS=volume.affine_RAS, names={26: "hepatic tumor"})


def _split(text: str) -> tuple[str, str]:
    """The model cards, these or the published ones, and what follows them."""
    for cards in (CARDS, PUBLISHED_CARDS):
        if text.startswith(cards):
            return cards, text.removeprefix(cards)
    return "", text


def _argument(text: str) -> str:
    for word, argument in {"pancreas": "pancreatic tumor", "everything": "everything"}.items():
        if word in text:
            return argument
    return "hepatic tumor"


def _generation(messages: Sequence[Message], text: str, reason: str) -> Generation:
    prompt = sum(len(message.text.split()) for message in messages)
    return Generation(
        text=text,
        prompt_tokens=prompt,
        completion_tokens=len(text.split()),
        finish_reason=reason,  # type: ignore[arg-type]  # one of the three
    )

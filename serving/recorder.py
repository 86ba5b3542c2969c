"""Listens to one dialogue: keeps what experts drew, counts tokens and seconds, passes events on."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from serving import metrics
from serving.completion import Answered, ExpertEnded
from serving.wire import Usage
from vilam3 import tracing
from vilam3.dialogue.events import Event, ExpertFinished, ExpertStarted, ReplyFinished, TextPiece
from vilam3.dialogue.loop import Transcript
from vilam3.dialogue.record import expert_call
from vilam3.errors import VilaM3Error

Progress = Event | ExpertEnded | Answered


class Recorder:
    """Hears every event in the dialogue's own thread."""

    def __init__(
        self, *, keep_pictures: Callable[[ExpertFinished], Mapping[str, Any]], tell: Callable[[Progress], None]
    ) -> None:
        """Begin to listen.

        Args:
            keep_pictures: Stores what an expert drew; gives the fields that say where.
            tell: Passes an event on.
        """
        self.notes: list[str] = []
        self._keep_pictures = keep_pictures
        self._tell = tell
        self._records: dict[int, dict[str, Any]] = {}
        self._replies: list[ReplyFinished] = []
        self._pace = _Pace()

    @property
    def replies(self) -> tuple[str, ...]:
        """What the model has said."""
        return tuple(reply.generation.text for reply in self._replies)

    @property
    def was_cut(self) -> bool:
        """Whether the last reply reached its longest."""
        return bool(self._replies) and self._replies[-1].generation.finish_reason == "length"

    @property
    def model_digest(self) -> str:
        """Of the weights that gave the last reply, if the engine says so."""
        return self._replies[-1].generation.model_digest if self._replies else ""

    def hear(self, event: Event) -> None:
        """Take note of an event and pass it on."""
        match event:
            case TextPiece():
                self._pace.piece()
            case ReplyFinished():
                self._replies.append(event)
                self._pace.finished(event)
            case ExpertStarted():
                metrics.expert_begins(event.call.expert)
            case ExpertFinished():
                self._ended(event)
                return
        self._tell(event)

    def calls(self, transcript: Transcript) -> list[dict[str, Any]]:
        """One record for each outcome; a trigger that named no expert has an outcome but was never run."""
        return [self._records.get(id(outcome)) or expert_call(outcome) for outcome in transcript.outcomes]

    def usage(self) -> Usage:
        """Tokens of all replies."""
        prompt = sum(reply.generation.prompt_tokens for reply in self._replies)
        completed = sum(reply.generation.completion_tokens for reply in self._replies)
        return Usage(prompt_tokens=prompt, completion_tokens=completed, total_tokens=prompt + completed)

    def _ended(self, event: ExpertFinished) -> None:
        expert, result = event.outcome.call.expert, event.outcome.result
        metrics.expert_ends(expert, event.seconds)
        if result is not None and result.is_remembered:
            metrics.expert_remembered(expert)
        self._pace.expert_ended(event)
        record = expert_call(event.outcome, round_index=event.round_index, seconds=round(event.seconds, 3))
        try:
            record |= self._keep_pictures(event)
        except (VilaM3Error, OSError):
            self.notes.append(f"The pictures of {expert} could not be stored on the server.")
        self._records[id(event.outcome)] = record
        self._tell(ExpertEnded(index=event.index, record=record))


class _Pace:
    """Times the replies, for metrics and traces."""

    def __init__(self) -> None:
        self._began = self._round_began = time.monotonic()
        self._first_piece: float | None = None
        self._has_spoken = False

    def piece(self) -> None:
        now = time.monotonic()
        if not self._has_spoken:
            self._has_spoken = True
            metrics.FIRST_TOKEN.observe(now - self._began)
        self._first_piece = self._first_piece or now

    def finished(self, event: ReplyFinished) -> None:
        now, tokens = time.monotonic(), event.generation.completion_tokens
        if self._first_piece is not None and tokens > 1 and now > self._first_piece:
            metrics.TOKEN_RATE.observe((tokens - 1) / (now - self._first_piece))
        counts = {"round": event.round_index, "tokens": tokens, "prompt_tokens": event.generation.prompt_tokens}
        tracing.past("reply", began_s=time.time() - (now - self._round_began), **counts)
        self._first_piece, self._round_began = None, now

    def expert_ended(self, event: ExpertFinished) -> None:
        self._round_began = time.monotonic()
        call, result = event.outcome.call, event.outcome.result
        told = {"failed": result is None, "cached": result is not None and result.is_remembered}
        tracing.past("expert", began_s=time.time() - event.seconds, expert=call.expert, **told)

"""Drives `converse` with an engine and experts: one dialogue with events, a deadline and cancellation, or many at once.

The server and `vilam3 ask` use `answer`, evaluation uses `answer_batch`; both send the same words. It knows no HTTP and
no files. Threads are the caller's: `answer` blocks, and experts run in `Bounds.pool` where one is given, so that a
deadline can be kept while an expert computes.
"""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures import TimeoutError as NotYetError
from contextlib import closing
from dataclasses import dataclass, field
from typing import cast

from vilam3.dialogue.loop import Asking, Consult, Ending, Generate, Outcome, Step, Transcript, converse
from vilam3.dialogue.messages import Engine, Generation, Message, Sampling
from vilam3.errors import EngineError, VilaM3Error
from vilam3.experts.protocol import ExpertCall, ExpertResult
from vilam3.experts.trigger import Grammar

POLL_S = 0.05  # how soon a waiting driver notices that its reader has left

log = logging.getLogger(__name__)

Ask = Callable[[ExpertCall], ExpertResult]
Dialogue = Generator[Step, str | Sequence[Outcome], Transcript]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPiece:
    """Some more text of the reply of this round."""

    round_index: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyFinished:
    """The reply of this round is whole, or was cut short."""

    round_index: int
    generation: Generation


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertStarted:
    """An expert begins; `index` counts the expert calls of the whole answer."""

    index: int
    round_index: int
    call: ExpertCall


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertFinished:
    """An expert call came to its end, well or not."""

    index: int
    round_index: int
    outcome: Outcome
    seconds: float


Event = TextPiece | ReplyFinished | ExpertStarted | ExpertFinished


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What ends a dialogue from outside.

    Attributes:
        deadline: Moment of `time.monotonic()` after which nothing new begins, or None.
        cancelled: Set by the caller when nobody waits for the answer any more.
        pool: Where experts run; without one they run in the caller's thread and the deadline waits for them.
    """

    deadline: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    pool: Executor | None = None

    def reached(self) -> Ending | None:
        """Why to stop now, or None to go on."""
        if self.cancelled.is_set():
            return "cancelled"
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return "deadline"
        return None

    def wait_s(self) -> float:
        """How long to sleep before looking again."""
        if self.deadline is None:
            return POLL_S
        return max(0.0, min(POLL_S, self.deadline - time.monotonic()))


class _StoppedError(Exception):
    """A bound was reached; carries what there is so far."""

    def __init__(self, ending: Ending, *, partial: str = "") -> None:
        super().__init__(ending)
        self.ending: Ending = ending
        self.partial = partial


def _ignore(_event: Event) -> None:
    """Nobody listens."""


def answer(
    asking: Asking,
    engine: Engine,
    ask: Ask,
    grammar: Grammar,
    *,
    sampling: Sampling | None = None,
    on_event: Callable[[Event], None] = _ignore,
    bounds: Bounds | None = None,
) -> Transcript:
    """Hold one dialogue to its end.

    Args:
        asking: The question with its images and model cards.
        engine: Generates the replies.
        ask: Runs one expert on the study in question; its errors are told to the model and to the reader.
        grammar: Finds triggers in replies.
        sampling: How to decode.
        on_event: Told about every piece of text and every expert, in order, in this thread.
        bounds: Deadline, cancellation and where experts run.

    Returns:
        The transcript; `ending` is ``deadline`` or ``cancelled`` where a bound cut it short, and then `answer` is what
        the model had said until then.

    Raises:
        DataError: the question does not fit the model's context.
        EngineError: the engine failed.
    """
    return _Driver(
        engine=engine, ask=ask, sampling=sampling or Sampling(), on_event=on_event, bounds=bounds or Bounds()
    ).run(asking, grammar)


def answer_batch(
    askings: Sequence[Asking],
    engine: Engine,
    asks: Sequence[Ask],
    grammar: Grammar,
    *,
    sampling: Sampling | None = None,
) -> list[Transcript]:
    """Hold many dialogues in lock-step: one batched `generate` a round for all that still talk.

    Args:
        askings: The questions.
        engine: Generates the replies.
        asks: One for each asking: runs an expert on its study.
        grammar: Finds triggers in replies.
        sampling: How to decode.

    Returns:
        One transcript for each asking, in order.
    """
    dialogues = [converse(asking, grammar) for asking in askings]
    transcripts: dict[int, Transcript] = {}
    waiting = {index: next(dialogue) for index, dialogue in enumerate(dialogues)}
    while waiting:
        steps = {index: _generate_of(step) for index, step in waiting.items()}
        generations = engine.generate([step.messages for step in steps.values()], sampling or Sampling())
        waiting = {}
        for index, generation in zip(steps, generations, strict=True):
            reached = _to_next_reply(dialogues[index], generation.text, asks[index])
            if isinstance(reached, Transcript):
                transcripts[index] = reached
            else:
                waiting[index] = reached
    return [transcripts[index] for index in range(len(askings))]


def _to_next_reply(dialogue: Dialogue, reply: str, ask: Ask) -> Step | Transcript:
    """Send a reply, consult the experts it calls, and stop where the next reply is needed or all is said."""
    try:
        step = dialogue.send(reply)
        while isinstance(step, Consult):
            step = dialogue.send([consult(call, ask) for call in step.calls])
    except StopIteration as end:
        return cast("Transcript", end.value)
    return step


def _generate_of(step: Step) -> Generate:
    assert isinstance(step, Generate)
    return step


def consult(call: ExpertCall, ask: Ask) -> Outcome:
    """Run one expert; whatever goes wrong becomes a sentence for the model and the reader."""
    try:
        return Outcome(call=call, result=ask(call))
    except VilaM3Error as error:
        return Outcome(call=call, error=str(error))
    except Exception as error:  # noqa: BLE001 - an expert is foreign code: its failure is told, never passed on
        # The message may quote file names or header values, so only the kind and the place are logged.
        place = traceback.extract_tb(error.__traceback__)[-1]
        kind = type(error).__name__
        log.error("expert failed: %s %s at %s:%s", call.expert, kind, place.filename, place.lineno)  # noqa: TRY400 - likewise
        return Outcome(call=call, error=f"it failed unexpectedly ({kind}).")


@dataclass(slots=True, kw_only=True)
class _Driver:
    """The state of one dialogue in flight."""

    engine: Engine
    ask: Ask
    sampling: Sampling
    on_event: Callable[[Event], None]
    bounds: Bounds
    said: tuple[Message, ...] = ()
    last_reply: str = ""
    outcomes: list[Outcome] = field(default_factory=list)

    def run(self, asking: Asking, grammar: Grammar) -> Transcript:
        dialogue = converse(asking, grammar)
        step = next(dialogue)
        try:
            while True:
                outcome: str | list[Outcome] = self._reply(step) if isinstance(step, Generate) else self._consult(step)
                step = dialogue.send(outcome)
        except StopIteration as end:
            return cast("Transcript", end.value)
        except _StoppedError as stop:
            return self._cut_short(stop)

    def _cut_short(self, stop: _StoppedError) -> Transcript:
        said = self.said
        if stop.partial:
            said = (*said, Message(role="assistant", text=stop.partial))
        return Transcript(
            messages=said,
            answer=stop.partial or self.last_reply,
            outcomes=tuple(self.outcomes),
            ending=stop.ending,
        )

    def _reply(self, step: Generate) -> str:
        self.said = step.messages
        self._stop_if_reached()
        pieces: list[str] = []
        stream = self.engine.stream(step.messages, self.sampling, cancelled=self.bounds.cancelled)
        with closing(cast("Generator[str | Generation]", stream)):
            for piece in stream:
                if isinstance(piece, Generation):
                    return self._finish(piece, step.round_index)
                pieces.append(piece)
                if piece:
                    self.on_event(TextPiece(round_index=step.round_index, text=piece))
                self._stop_if_reached(partial="".join(pieces))
        raise EngineError(f"engine {self.engine.name}: the stream ended without a result; ask again")

    def _finish(self, generation: Generation, round_index: int) -> str:
        self.on_event(ReplyFinished(round_index=round_index, generation=generation))
        if generation.finish_reason == "cancelled":
            raise _StoppedError("cancelled", partial=generation.text)
        self.last_reply = generation.text
        self.said = (*self.said, Message(role="assistant", text=generation.text))
        return generation.text

    def _consult(self, step: Consult) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for call in step.calls:
            self._stop_if_reached()
            index = len(self.outcomes)
            self.on_event(ExpertStarted(index=index, round_index=step.round_index, call=call))
            started = time.monotonic()
            outcome = self._run_expert(call)
            seconds = time.monotonic() - started
            self.outcomes.append(outcome)
            outcomes.append(outcome)
            self.on_event(ExpertFinished(index=index, round_index=step.round_index, outcome=outcome, seconds=seconds))
        return outcomes

    def _run_expert(self, call: ExpertCall) -> Outcome:
        if self.bounds.pool is None:
            return consult(call, self.ask)
        future = self.bounds.pool.submit(consult, call, self.ask)
        while True:
            try:
                return future.result(timeout=self.bounds.wait_s())
            except NotYetError:
                if reached := self.bounds.reached():
                    return self._abandon(future, call, reached)

    @staticmethod
    def _abandon(future: Future[Outcome], call: ExpertCall, reached: Ending) -> Outcome:
        """Leave an expert behind: a thread cannot be stopped, but one that has not begun never will."""
        future.cancel()
        reason = "nobody waits for it any more." if reached == "cancelled" else "it did not finish in the time allowed."
        return Outcome(call=call, error=reason)

    def _stop_if_reached(self, *, partial: str = "") -> None:
        if reached := self.bounds.reached():
            raise _StoppedError(reached, partial=partial)

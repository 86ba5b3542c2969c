"""Drives `converse` with an engine and experts: one dialogue with events, a deadline and cancellation, or many at once.

The server and `vilam3 ask` use `answer`, evaluation uses `answer_batch`; both send the same words. It knows no HTTP and
no files. Threads are the caller's: `answer` blocks, and experts run in `Bounds.pool` where one is given, so that a
deadline can be kept while an expert computes.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import cast

from vilam3.dialogue.bounds import Bounds
from vilam3.dialogue.events import Event, ReplyFinished, TextPiece
from vilam3.dialogue.loop import Asking, Consult, Ending, Generate, Outcome, Step, Transcript, converse
from vilam3.dialogue.messages import Engine, Generation, Message, Sampling
from vilam3.dialogue.panel import Ask, Panel, consult_all
from vilam3.errors import EngineError
from vilam3.experts.trigger import Grammar

Dialogue = Generator[Step, str | Sequence[Outcome], Transcript]


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
    bounds = bounds or Bounds()
    panel = Panel(ask, bounds, on_event=on_event)
    driver = _Driver(engine=engine, panel=panel, sampling=sampling or Sampling(), on_event=on_event, bounds=bounds)
    return driver.run(asking, grammar)


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
            step = dialogue.send(consult_all(step.calls, ask))
    except StopIteration as end:
        return cast("Transcript", end.value)
    return step


def _generate_of(step: Step) -> Generate:
    assert isinstance(step, Generate)
    return step


@dataclass(slots=True, kw_only=True)
class _Driver:
    """The state of one dialogue in flight."""

    engine: Engine
    panel: Panel
    sampling: Sampling
    on_event: Callable[[Event], None]
    bounds: Bounds
    said: tuple[Message, ...] = ()
    last_reply: str = ""

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
            outcomes=tuple(self.panel.outcomes),
            ending=stop.ending,
        )

    def _reply(self, step: Generate) -> str:
        self.said = step.messages
        self._stop_if_reached()
        pieces: list[str] = []
        ticket = self.engine.submit(step.messages, self.sampling, priority=self.bounds.priority)
        with closing(cast("Generator[str | Generation]", iter(ticket))) as stream:
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
        self._stop_if_reached()
        outcomes = self.panel.hold(step)
        if len(outcomes) < len(step.calls):
            self._stop_if_reached()
        return outcomes

    def _stop_if_reached(self, *, partial: str = "") -> None:
        if reached := self.bounds.reached():
            raise _StoppedError(reached, partial=partial)

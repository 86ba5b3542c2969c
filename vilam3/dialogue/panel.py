"""The experts that one reply calls: run side by side, watched, and left behind when a bound is reached.

Events are told in the thread of whoever holds the panel, in order. An expert looks at its watch at least once a
second, so it ends within a second of a bound; one that does not look is left behind, since a thread cannot be stopped.
"""

import contextvars
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field

from vilam3.dialogue.bounds import Bounds
from vilam3.dialogue.events import Event, ExpertFinished, ExpertProgressed, ExpertStarted
from vilam3.dialogue.loop import Consult, Outcome
from vilam3.errors import Cancelled, VilaM3Error
from vilam3.experts.protocol import ExpertCall, ExpertResult, Watch, unwatched

PROGRESS_EVERY_S = 0.25

log = logging.getLogger(__name__)

Ask = Callable[[ExpertCall, Watch], ExpertResult]


def consult(call: ExpertCall, ask: Ask, watch: Watch = unwatched) -> Outcome:
    """Run one expert; whatever goes wrong becomes a sentence for the model and the reader."""
    try:
        return Outcome(call=call, result=ask(call, watch))
    except VilaM3Error as error:
        return Outcome(call=call, error=str(error))
    except Exception as error:  # noqa: BLE001 - an expert is foreign code: its failure is told, never passed on
        # The message may quote file names or header values, so only the kind and the place are logged.
        place = traceback.extract_tb(error.__traceback__)[-1]
        kind = type(error).__name__
        log.error("expert failed: %s %s at %s:%s", call.expert, kind, place.filename, place.lineno)  # noqa: TRY400 - likewise
        return Outcome(call=call, error=f"it failed unexpectedly ({kind}).")


@dataclass(slots=True, kw_only=True, eq=False)
class _Seat:
    """One expert at work."""

    index: int
    call: ExpertCall
    began: float = field(default_factory=time.monotonic)
    fraction: float = 0.0
    told_fraction: float = 0.0
    told_at: float = field(default_factory=time.monotonic)
    future: Future[Outcome] | None = None

    def news(self) -> float | None:
        """The fraction, if there is something to tell and it is time to."""
        now = time.monotonic()
        if self.fraction == self.told_fraction or now - self.told_at < PROGRESS_EVERY_S:
            return None
        self.told_fraction, self.told_at = self.fraction, now
        return self.fraction


class Panel:
    """Holds the experts of one dialogue; `spent_s` adds up over its rounds."""

    def __init__(self, ask: Ask, bounds: Bounds, *, on_event: Callable[[Event], None]) -> None:
        """Prepare.

        Args:
            ask: Runs one expert.
            bounds: What ends it.
            on_event: Told about every expert, in the thread that calls `hold`.
        """
        self.outcomes: list[Outcome] = []
        self.spent_s = 0.0
        self._ask = ask
        self._bounds = bounds
        self._on_event = on_event
        self._at_work: list[_Seat] = []
        self._round_index = 0

    def hold(self, step: Consult) -> list[Outcome]:
        """Run the experts of one round; those that never began because a bound was reached are missing at the end."""
        self._round_index = step.round_index
        waiting = list(step.calls)
        done: dict[int, Outcome] = {}
        while (waiting and not self._bounds.reached()) or self._at_work:
            while waiting and len(self._at_work) < self._room() and not self._bounds.reached():
                self._begin(waiting.pop(0), len(self.outcomes) + len(done) + len(self._at_work))
            done |= self._look()
        outcomes = [done[index] for index in sorted(done)]
        self.outcomes += outcomes
        return outcomes

    def _room(self) -> int:
        return 1 if self._bounds.pool is None else self._bounds.side_by_side

    def _begin(self, call: ExpertCall, index: int) -> None:
        seat = _Seat(index=index, call=call)
        self._at_work.append(seat)
        self._on_event(ExpertStarted(index=index, round_index=self._round_index, call=call))
        pool: Executor | None = self._bounds.pool
        if reason := self._exhausted():
            seat.future = _settled(Outcome(call=call, error=reason))
        elif pool is None:
            seat.future = _settled(consult(call, self._ask, self._watch(seat, tells=True)))
        else:
            context = contextvars.copy_context()  # so that a trace goes on in the other thread
            seat.future = pool.submit(context.run, consult, call, self._ask, self._watch(seat, tells=False))

    def _watch(self, seat: _Seat, *, tells: bool) -> Watch:
        """What an expert is watched by; runs in its thread."""

        def watch(fraction: float, /) -> None:
            if reason := self._exhausted():
                raise Cancelled(reason)
            seat.fraction = min(1.0, max(0.0, fraction))
            if tells:
                self._tell_progress()

        return watch

    def _exhausted(self) -> str:
        """Why experts must end now, for the model and the reader, or nothing."""
        match self._bounds.reached():
            case "cancelled":
                return "nobody waits for it any more."
            case "deadline":
                return "it did not finish in the time allowed."
        most_s = self._bounds.expert_seconds
        if most_s is not None and self._taken_s() >= most_s:
            return f"the time that all experts of one answer may take together, {most_s:g} s, is used up."
        return ""

    def _taken_s(self) -> float:
        now = time.monotonic()
        return self.spent_s + sum(now - seat.began for seat in tuple(self._at_work))

    def _look(self) -> dict[int, Outcome]:
        """Wait a moment, tell the news, and take those off that came to their end."""
        wait([_future(seat) for seat in self._at_work], timeout=self._bounds.wait_s(), return_when=FIRST_COMPLETED)
        self._tell_progress()
        reason = self._exhausted()
        return {seat.index: self._end(seat, reason) for seat in tuple(self._at_work) if reason or _future(seat).done()}

    def _end(self, seat: _Seat, reason: str) -> Outcome:
        """Tell how it ended; one that has not is left behind, and one that has not begun never will."""
        future = _future(seat)
        outcome = future.result() if future.done() else Outcome(call=seat.call, error=reason)
        future.cancel()
        seconds = time.monotonic() - seat.began
        self.spent_s += seconds
        self._at_work.remove(seat)
        told = ExpertFinished(index=seat.index, round_index=self._round_index, outcome=outcome, seconds=seconds)
        self._on_event(told)
        return outcome

    def _tell_progress(self) -> None:
        for seat in tuple(self._at_work):
            fraction = seat.news()
            if fraction is not None:
                self._on_event(ExpertProgressed(index=seat.index, fraction=round(fraction, 3)))


def _settled(outcome: Outcome) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def _future(seat: _Seat) -> Future[Outcome]:
    assert seat.future is not None
    return seat.future


def consult_all(calls: Sequence[ExpertCall], ask: Ask) -> list[Outcome]:
    """Run experts one after the other, unwatched."""
    return [consult(call, ask) for call in calls]

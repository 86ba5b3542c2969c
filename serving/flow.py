"""Blocking work in a lane whose events reach the event loop as they happen, and which ends when its caller leaves."""

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from serving import metrics
from serving.lanes import Lane
from serving.presence import Gone
from serving.refusals import GoneError
from vilam3.errors import UserError

EventT = TypeVar("EventT")
ResultT = TypeVar("ResultT")
GONE_EVERY_S = 0.1  # how often it is asked whether the caller has left


class Flow(Generic[EventT, ResultT]):
    """One piece of work in flight."""

    def __init__(
        self,
        lane: Lane,
        work: Callable[["Flow[EventT, ResultT]"], ResultT],
        *,
        on_end: Callable[[], None] = lambda: None,
        is_degraded: Callable[[ResultT], bool] = lambda _: False,
        is_urgent: bool = False,
    ) -> None:
        """Queue `work` at once; it is called in a thread of the lane.

        Args:
            lane: Where it runs.
            work: What to do.
            on_end: Called once when it has ended or never will begin.
            is_degraded: Whether a result is less than what was asked for, for the count of outcomes.
            is_urgent: Go before all that waits.

        Raises:
            BusyError: as many wait as may.
        """
        self.cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._events: deque[EventT | None] = deque()
        self._wake = asyncio.Event()
        self._is_awake = False
        self._on_end = on_end
        self._is_degraded = is_degraded
        trace = contextvars.copy_context()  # so that it goes on in the other thread
        self._work = lane.submit(lambda: trace.run(work, self), is_urgent=is_urgent)
        metrics.IN_FLIGHT.inc()
        self._work.add_done_callback(self._end)

    def tell(self, event: EventT) -> None:
        """Pass an event on; called by the work."""
        self._put(event)

    def cancel(self) -> None:
        """Let the work stop at its next look at `cancelled`, or never begin; harmless when it has ended."""
        self.cancelled.set()
        self._work.cancel()

    async def batches(self, *, gone: Gone) -> AsyncGenerator[list[EventT], None]:
        """All events that have come, whenever some have, and none now and then. Leaving early cancels the work.

        Where events come faster than they are passed on, batches grow, so that each event costs less.

        Args:
            gone: Whether the caller has left.
        """
        try:
            while True:
                await self._woken()
                events, has_ended = self._drained()
                if events or not has_ended:
                    yield events
                if has_ended:
                    return
                if not events and not self.cancelled.is_set() and await gone():
                    self.cancel()
        finally:
            self.cancel()

    async def events(self, *, gone: Gone) -> AsyncGenerator[EventT | None]:
        """Events as they come, and None now and then while there are none. Leaving early cancels the work."""
        async with contextlib.aclosing(self.batches(gone=gone)) as batches:
            async for batch in batches:
                for event in batch or (None,):
                    yield event

    async def _woken(self) -> None:
        """Wait for an event, or for the moment to ask whether the caller is still there."""
        if not self._events:
            timer = self._loop.call_later(GONE_EVERY_S, self._wake.set)
            await self._wake.wait()
            timer.cancel()
        self._wake.clear()
        self._is_awake = False  # before the events are taken: whoever puts one from now on wakes us again

    def _drained(self) -> tuple[list[EventT], bool]:
        """What has come, and whether that was the last of it."""
        taken: list[EventT] = []
        while self._events:
            event = self._events.popleft()
            if event is None:
                return taken, True
            taken.append(event)
        return taken, False

    def result(self) -> ResultT:
        """What the work came to, after its last event.

        Raises:
            GoneError: the caller left before it began.
        """
        if self._work.cancelled():
            raise GoneError("the caller left before the answer was begun")
        return self._work.result()

    async def outcome(self, *, gone: Gone) -> ResultT:
        """Wait for the result and for nothing else."""
        async for _ in self.batches(gone=gone):
            pass
        return self.result()

    def _end(self, work: Future[ResultT]) -> None:
        metrics.IN_FLIGHT.dec()
        metrics.ended(self._kind(work))
        self._on_end()
        self._put(None)

    def _kind(self, work: Future[ResultT]) -> metrics.Outcome:
        if work.cancelled() or self.cancelled.is_set():
            return "cancelled"
        error = work.exception()
        if error is not None:
            return "refused" if isinstance(error, UserError) else "failed"
        return "degraded" if self._is_degraded(work.result()) else "answered"

    def _put(self, event: EventT | None) -> None:
        self._events.append(event)
        if self._is_awake:
            return
        self._is_awake = True
        with contextlib.suppress(RuntimeError):  # the event loop has closed: the server is gone, and its callers
            self._loop.call_soon_threadsafe(self._wake.set)

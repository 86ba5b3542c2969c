"""Blocking work in a lane whose events reach the event loop as they happen, and which ends when its caller leaves."""

import asyncio
import contextlib
import threading
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
    ) -> None:
        """Queue `work` at once; it is called in a thread of the lane.

        Args:
            lane: Where it runs.
            work: What to do.
            on_end: Called once when it has ended or never will begin.
            is_degraded: Whether a result is less than what was asked for, for the count of outcomes.

        Raises:
            BusyError: as many wait as may.
        """
        self.cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[EventT | None] = asyncio.Queue()
        self._on_end = on_end
        self._is_degraded = is_degraded
        self._work = lane.submit(lambda: work(self))
        metrics.IN_FLIGHT.inc()
        self._work.add_done_callback(self._end)

    def tell(self, event: EventT) -> None:
        """Pass an event on; called by the work."""
        self._put(event)

    def cancel(self) -> None:
        """Let the work stop at its next look at `cancelled`, or never begin; harmless when it has ended."""
        self.cancelled.set()
        self._work.cancel()

    async def events(self, *, gone: Gone) -> AsyncGenerator[EventT | None]:
        """Events as they come, and None now and then while there are none. Leaving early cancels the work.

        Args:
            gone: Whether the caller has left.
        """
        try:
            while True:
                try:
                    event = await asyncio.wait_for(self._events.get(), GONE_EVERY_S)
                except TimeoutError:
                    if not self.cancelled.is_set() and await gone():
                        self.cancel()
                    yield None
                    continue
                if event is None:
                    return
                yield event
        finally:
            self.cancel()

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
        async for _ in self.events(gone=gone):
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
        with contextlib.suppress(RuntimeError):  # the event loop has closed: the server is gone, and its callers
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

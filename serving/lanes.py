"""Worker threads with a bounded queue: work beyond the bound is refused at once, with a moment to come back."""

import asyncio
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from serving import metrics
from vilam3.errors import BusyError

T = TypeVar("T")
Piece = tuple[Future[Any], Callable[[], Any]]
LONGEST_RETRY_S = 120
WEIGHT_OF_NEWEST = 0.2  # of the moving mean of how long a piece of work takes


class Places:
    """How many requests of one tenant are in flight, so that none takes all the places there are."""

    def __init__(self, per_tenant: int) -> None:
        """Give each tenant so many."""
        self._per_tenant = per_tenant
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    def take(self, tenant: str) -> Callable[[], None]:
        """Take a place; call what is returned to give it back.

        Raises:
            BusyError: the tenant has taken all of its places.
        """
        with self._lock:
            if self._taken[tenant] >= self._per_tenant:
                metrics.BUSY.labels("tenant").inc()
                raise BusyError(
                    f"requests: {self._per_tenant} of yours are being answered, which is the most for one caller; "
                    "wait for one of them",
                    retry_after_s=1,
                )
            self._taken[tenant] += 1
        return lambda: self._give_back(tenant)

    def _give_back(self, tenant: str) -> None:
        with self._lock:
            self._taken[tenant] -= 1
            if self._taken[tenant] <= 0:
                del self._taken[tenant]


class Lane:
    """Runs blocking work off the event loop; urgent work goes before all that waits."""

    def __init__(self, name: str, *, workers: int, waiting: int, urgent: int = 0) -> None:
        """Start with no thread.

        Args:
            name: In messages and thread names.
            workers: Pieces of work at a time.
            waiting: More that may wait.
            urgent: Still more that may wait, if they are urgent.
        """
        self.name = name
        self.workers = workers
        self.waiting = waiting
        self.urgent = urgent
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._queues: tuple[deque[Piece], deque[Piece]] = (deque(), deque())
        self._in_flight = 0
        self._mean_s = 1.0

    @property
    def in_flight(self) -> int:
        """Pieces of work running or waiting."""
        return self._in_flight

    def submit(self, work: Callable[[], T], *, is_urgent: bool = False) -> Future[T]:
        """Queue `work`; a future that is cancelled before it runs gives its place back.

        Raises:
            BusyError: as many wait as may.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._in_flight >= self.workers + self.waiting + (self.urgent if is_urgent else 0):
                metrics.BUSY.labels("queue").inc()
                raise BusyError(
                    f"{self.name}: {self._in_flight} requests are being served or wait, which is the most this server "
                    "holds; try again later",
                    retry_after_s=self._retry_after_s(),
                )
            self._in_flight += 1
            metrics.WAITING.inc()
            self._queues[0 if is_urgent else 1].append((future, work))
        future.add_done_callback(self._leave)
        try:
            self._pool.submit(self._next)
        except RuntimeError:  # closed
            future.cancel()
            raise
        return future

    async def run(self, work: Callable[[], T]) -> T:
        """Queue `work` and wait for it.

        Raises:
            BusyError: as many wait as may.
        """
        return await asyncio.wrap_future(self.submit(work))

    def close(self) -> None:
        """Drop what waits; what runs is left to end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for queue in self._queues:
            for future, _ in tuple(queue):
                future.cancel()

    def _next(self) -> None:
        """Do the most urgent piece of work; the pool calls this once for each piece."""
        with self._lock:
            future, work = next(queue for queue in self._queues if queue).popleft()
        metrics.WAITING.dec()
        if not future.set_running_or_notify_cancel():
            return
        started = time.monotonic()
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - whoever waits for the work is told
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            self._mean_s += WEIGHT_OF_NEWEST * (time.monotonic() - started - self._mean_s)

    def _leave(self, _future: object) -> None:
        with self._lock:
            self._in_flight -= 1

    def _retry_after_s(self) -> int:
        turns = self._in_flight / self.workers
        return min(LONGEST_RETRY_S, max(1, math.ceil(turns * self._mean_s)))

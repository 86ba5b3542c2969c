"""Worker threads with a bounded queue: work beyond the bound is refused at once, with a moment to come back."""

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from serving.refusals import BusyError

T = TypeVar("T")
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
    """Runs blocking work off the event loop."""

    def __init__(self, name: str, *, workers: int, waiting: int) -> None:
        """Start with no thread.

        Args:
            name: In messages and thread names.
            workers: Pieces of work at a time.
            waiting: More that may wait.
        """
        self.name = name
        self.workers = workers
        self.waiting = waiting
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._in_flight = 0
        self._mean_s = 1.0

    @property
    def in_flight(self) -> int:
        """Pieces of work running or waiting."""
        return self._in_flight

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Queue `work`; a future that is cancelled before it runs gives its place back.

        Raises:
            BusyError: as many wait as may.
        """
        with self._lock:
            if self._in_flight >= self.workers + self.waiting:
                raise BusyError(
                    f"{self.name}: {self._in_flight} requests are being served or wait, which is the most this server "
                    "holds; try again later",
                    retry_after_s=self._retry_after_s(),
                )
            self._in_flight += 1
        future = self._pool.submit(self._timed, work)
        future.add_done_callback(self._leave)
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

    def _timed(self, work: Callable[[], T]) -> T:
        started = time.monotonic()
        try:
            return work()
        finally:
            taken_s = time.monotonic() - started
            self._mean_s += WEIGHT_OF_NEWEST * (taken_s - self._mean_s)

    def _leave(self, _future: object) -> None:
        with self._lock:
            self._in_flight -= 1

    def _retry_after_s(self) -> int:
        turns = self._in_flight / self.workers
        return min(LONGEST_RETRY_S, max(1, math.ceil(turns * self._mean_s)))

"""The batches of the next step, made while this one is computed."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from vilam3.train.step import Batch


class Ahead:
    """Batches by step, one step ahead of who asks; an error of making them is raised at their own step."""

    def __init__(self, make: Callable[[int], list[Batch]], *, steps: int) -> None:
        """`make` gives the batches of a step, of which there are `steps`, in a thread of its own."""
        self._make = make
        self._steps = steps
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._coming: dict[int, Future[list[Batch]]] = {}
        self.waited_s = 0.0

    def __call__(self, step: int) -> list[Batch]:
        """Those of `step`."""
        started = time.monotonic()
        batches = self._begun(step).result()
        self.waited_s += time.monotonic() - started
        self._coming = {}
        if step + 1 < self._steps:
            self._coming[step + 1] = self._begun(step + 1)
        return batches

    def close(self) -> None:
        """Make no more."""
        self._maker.shutdown(wait=True, cancel_futures=True)

    def _begun(self, step: int) -> "Future[list[Batch]]":
        coming = self._coming.get(step)
        return self._maker.submit(self._make, step) if coming is None else coming

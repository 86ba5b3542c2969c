"""How much memory a process and everything it starts hold at most, sampled while they run."""

import contextlib
import threading
from types import TracebackType
from typing import Self

import psutil

EVERY_S = 0.5
BYTES_PER_MB = 1e6


class PeakMemory:
    """Samples the tree of this process from entering to leaving; use as a context manager."""

    def __init__(self) -> None:
        """Nothing sampled yet."""
        self._peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    @property
    def peak_mb(self) -> float:
        """Most seen at once, in megabytes; memory that processes share counts once where the kernel tells."""
        return self._peak_bytes / BYTES_PER_MB

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, with a last look."""
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        own = psutil.Process()
        while True:
            held = sum(_held_bytes(process) for process in [own, *own.children(recursive=True)])
            self._peak_bytes = max(self._peak_bytes, held)
            if self._stop.wait(EVERY_S):
                return


def _held_bytes(process: psutil.Process) -> int:
    """Proportional set size, or the resident one where that is not told; 0 for a process that has just ended."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        with contextlib.suppress(psutil.AccessDenied, AttributeError):
            return int(process.memory_full_info().pss)
        return int(process.memory_info().rss)
    return 0

"""A wish to end, as the operating system brings it."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def on_termination(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM end the run at the next step; signals reach the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

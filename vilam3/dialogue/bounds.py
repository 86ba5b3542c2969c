"""What ends a dialogue from outside: the clock, the reader, and what its experts may take."""

import threading
import time
from concurrent.futures import Executor
from dataclasses import dataclass, field

from vilam3.dialogue.loop import Ending

POLL_S = 0.05  # how soon a waiting driver notices that its reader has left
SIDE_BY_SIDE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What ends a dialogue from outside.

    Attributes:
        deadline: Moment of `time.monotonic()` after which nothing new begins, or None.
        cancelled: Set by the caller when nobody waits for the answer any more.
        pool: Where experts run; without one they run in the caller's thread, one after the other.
        expert_seconds: What all experts of the answer may take together, or None.
        side_by_side: Most experts of one reply at a time.
        priority: Of its replies in the engine's queue; a lower one is begun earlier.
    """

    deadline: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    pool: Executor | None = None
    expert_seconds: float | None = None
    side_by_side: int = SIDE_BY_SIDE
    priority: int = 0

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

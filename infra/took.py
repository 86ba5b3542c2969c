"""How long programs that were called took; processor time too, since a wall clock also measures the neighbours."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Took:
    """What a block took; zero until it has ended."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


@contextmanager
def measured() -> Iterator[Took]:
    """Measure the block, and of its processor time that of the programs which it calls and awaits."""
    took, began, used = Took(), time.monotonic(), os.times()
    yield took
    now = os.times()
    took.wall_s = time.monotonic() - began
    children_s = now.children_user - used.children_user + now.children_system - used.children_system
    took.cpu_s = max(0.0, children_s)  # where there were none, rounding may leave a little less than nothing

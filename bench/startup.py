"""How long ``vilam3 --help`` takes: what a person waits for before the first word."""

import statistics
import subprocess
import sys
import time
from typing import Any

from bench.record import Figure, write

REPEATS = 7
MOST_SECONDS = 1.5


def run() -> dict[str, Any]:
    """Median of some runs after one that warms the disk cache."""
    _seconds()
    median = statistics.median(_seconds() for _ in range(REPEATS))
    figure = Figure(name="vilam3 --help, median", value=median, unit="s", baseline=MOST_SECONDS)
    return write("startup", [figure], command="make bench AREAS=startup")


def _seconds() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "vilam3", "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began

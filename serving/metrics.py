"""What Prometheus reads at /metrics beside KServe's own: the numbers that autoscaling and dashboards go by.

Labels are names of experts and outcomes, never anything a caller sent.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import Counter, Gauge, Histogram

VLM = "VLM"  # the label `expert` of the language model itself
Outcome = Literal["answered", "degraded", "refused", "cancelled", "failed"]
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)

IN_FLIGHT = Gauge("vilam3_requests_in_flight", "Requests being answered or waiting")
QUEUE_DEPTH = Gauge("vilam3_queue_depth", "Calls of an expert running or waiting", ["expert"])
EXPERT_SECONDS = Histogram(
    "vilam3_expert_seconds", "Time of an expert call as its caller sees it", ["expert"], buckets=SECONDS
)
REQUESTS = Counter("vilam3_requests_total", "Requests by how they ended", ["outcome"])
NAMES = ("vilam3_requests_in_flight", "vilam3_queue_depth", "vilam3_expert_seconds", "vilam3_requests_total")


def declare(experts: tuple[str, ...]) -> None:
    """Show every label from the beginning: an autoscaler cannot tell a missing series from a broken one."""
    for outcome in ("answered", "degraded", "refused", "cancelled", "failed"):
        REQUESTS.labels(outcome)
    for expert in experts:
        QUEUE_DEPTH.labels(expert)
        EXPERT_SECONDS.labels(expert)


def ended(outcome: Outcome) -> None:
    """Count a request."""
    REQUESTS.labels(outcome).inc()


def expert_begins(expert: str) -> None:
    """A call of an expert begins to wait or run."""
    QUEUE_DEPTH.labels(expert).inc()


def expert_ends(expert: str, seconds: float) -> None:
    """A call of an expert has come to its end."""
    QUEUE_DEPTH.labels(expert).dec()
    EXPERT_SECONDS.labels(expert).observe(seconds)


@contextmanager
def consulting(expert: str) -> Iterator[None]:
    """Count and time one call."""
    began = time.monotonic()
    expert_begins(expert)
    try:
        yield
    finally:
        expert_ends(expert, time.monotonic() - began)

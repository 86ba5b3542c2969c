"""What Prometheus reads at /metrics beside KServe's own: the numbers that autoscaling and dashboards go by.

Labels are names of experts and outcomes, never anything a caller sent.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from prometheus_client import Counter, Gauge, Histogram

VLM = "VLM"  # the label `expert` of the language model itself
Outcome = Literal["answered", "degraded", "refused", "cancelled", "failed"]
Refusal = Literal["queue", "tenant"]
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
FIRST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
RATES = (1, 2, 5, 10, 20, 30, 50, 80, 120, 200, 400)
ROUNDS = (1, 2, 3, 4, 5, 6, 7, 8, 9)

# Every name stands here once; the chart's dashboard, alerts and scalers are held against these by a test.
IN_FLIGHT_NAME = "vilam3_requests_in_flight"
WAITING_NAME = "vilam3_requests_waiting"
QUEUE_DEPTH_NAME = "vilam3_queue_depth"
EXPERT_SECONDS_NAME = "vilam3_expert_seconds"
REQUESTS_NAME = "vilam3_requests_total"
BUSY_NAME = "vilam3_requests_busy_total"
FIRST_TOKEN_NAME = "vilam3_first_token_seconds"  # noqa: S105 - no secret
TOKEN_RATE_NAME = "vilam3_tokens_per_second"  # noqa: S105 - no secret
ROUNDS_NAME = "vilam3_rounds"
REMEMBERED_NAME = "vilam3_cache_hits_total"
NAMES = (
    IN_FLIGHT_NAME,
    WAITING_NAME,
    QUEUE_DEPTH_NAME,
    EXPERT_SECONDS_NAME,
    REQUESTS_NAME,
    BUSY_NAME,
    FIRST_TOKEN_NAME,
    TOKEN_RATE_NAME,
    ROUNDS_NAME,
    REMEMBERED_NAME,
)

IN_FLIGHT = Gauge(IN_FLIGHT_NAME, "Requests being answered or waiting")
WAITING = Gauge(WAITING_NAME, "Requests waiting for a place")
QUEUE_DEPTH = Gauge(QUEUE_DEPTH_NAME, "Calls of an expert running or waiting", ["expert"])
EXPERT_TIME = Histogram(
    EXPERT_SECONDS_NAME, "Time of an expert call as its caller sees it", ["expert"], buckets=SECONDS
)
REQUESTS = Counter(REQUESTS_NAME, "Requests by how they ended", ["outcome"])
BUSY = Counter(BUSY_NAME, "Requests told to come back later, by what was full", ["full"])
FIRST_TOKEN = Histogram(FIRST_TOKEN_NAME, "From a question to the first text of its answer", buckets=FIRST_SECONDS)
TOKEN_RATE = Histogram(TOKEN_RATE_NAME, "Tokens a second of a reply, after its first", buckets=RATES)
ROUNDS_TAKEN = Histogram(ROUNDS_NAME, "Replies of the language model for one answer", buckets=ROUNDS)
REMEMBERED = Counter(REMEMBERED_NAME, "Calls of an expert that were answered by what it had found before", ["expert"])


def declare(experts: tuple[str, ...]) -> None:
    """Show every label from the beginning: an autoscaler cannot tell a missing series from a broken one."""
    for outcome in get_args(Outcome):
        REQUESTS.labels(outcome)
    for full in get_args(Refusal):
        BUSY.labels(full)
    for expert in experts:
        QUEUE_DEPTH.labels(expert)
        EXPERT_TIME.labels(expert)
        REMEMBERED.labels(expert)


def ended(outcome: Outcome) -> None:
    """Count a request."""
    REQUESTS.labels(outcome).inc()


def expert_begins(expert: str) -> None:
    """A call of an expert begins to wait or run."""
    QUEUE_DEPTH.labels(expert).inc()


def expert_ends(expert: str, seconds: float) -> None:
    """A call of an expert has come to its end."""
    QUEUE_DEPTH.labels(expert).dec()
    EXPERT_TIME.labels(expert).observe(seconds)


def expert_remembered(expert: str) -> None:
    """A call of an expert was answered from memory."""
    REMEMBERED.labels(expert).inc()


@contextmanager
def consulting(expert: str) -> Iterator[None]:
    """Count and time one call."""
    began = time.monotonic()
    expert_begins(expert)
    try:
        yield
    finally:
        expert_ends(expert, time.monotonic() - began)

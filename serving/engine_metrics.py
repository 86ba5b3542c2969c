"""What an engine of this process says of itself at /metrics, read from its own counters whenever somebody looks."""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from vilam3.dialogue.messages import Engine, EngineStats, FirstTokens

GAUGES = {
    "running": "Replies being decoded",
    "waiting": "Requests in the engine's queue",
    "free_slots": "Places of the batch that nobody has",
    "tokens_per_s": "Tokens generated a second of late, over all replies",
}
COUNTERS = {
    "prompt_tokens": "Positions of all prompts",
    "prompt_tokens_reused": "Positions of prompts that were remembered and not computed again",
    "generated_tokens": "Tokens of all replies",
    "images": "Pictures of all prompts",
    "images_reused": "Pictures of prompts that were not encoded again",
}
PREFIX = "vilam3_engine_"
FIRST_TOKEN_NAME = f"{PREFIX}first_token_seconds"
# Every series; the chart's dashboard is held against these by a test.
NAMES = (*(f"{PREFIX}{name}" for name in GAUGES), *(f"{PREFIX}{name}_total" for name in COUNTERS), FIRST_TOKEN_NAME)


class EngineCollector(Collector):
    """Reads the engine that is watched; a process has one."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self.engine: Engine | None = None

    def collect(self) -> Iterator[Metric]:
        """All families, as of now."""
        if self.engine is not None:
            yield from _families(self.engine.stats())


_COLLECTOR = EngineCollector()


def watch(engine: Engine) -> None:
    """Show this engine, in place of an earlier one."""
    if _COLLECTOR.engine is None:
        REGISTRY.register(_COLLECTOR)
    _COLLECTOR.engine = engine


def _families(stats: EngineStats) -> Iterator[Metric]:
    for name, text in GAUGES.items():
        yield GaugeMetricFamily(f"{PREFIX}{name}", text, value=getattr(stats, name))
    for name, text in COUNTERS.items():
        yield CounterMetricFamily(f"{PREFIX}{name}", text, value=getattr(stats, name))
    if stats.first_tokens is not None:
        yield _first_tokens(stats.first_tokens)


def _first_tokens(told: FirstTokens) -> Metric:
    bounds = [*map(str, told.bounds_s), "+Inf"]
    buckets = list(zip(bounds, map(float, accumulate(told.counts)), strict=True))
    text = "From the arrival of a request to its first token"
    return HistogramMetricFamily(FIRST_TOKEN_NAME, text, buckets=buckets, sum_value=told.total_s)

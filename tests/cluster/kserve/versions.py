"""Which version of the model answers, and waiting for another: KServe calls a service ready before it sees a change."""

import time
from collections.abc import Callable

from tests.cluster.kserve.load import HELLO
from tests.cluster.kserve.platform import POLL_S, READY_S, Platform


def served(platform: Platform) -> str:
    """Digest of the weights that answer."""
    with platform.client() as caller:
        told = caller.post(f"{platform.orchestrator}/v1/chat/completions", json=HELLO).json()
    return str(told["provenance"]["model_digest"])


def await_version(platform: Platform, *, wanted: Callable[[str], bool]) -> str:
    """Wait until a version that is `wanted` answers and every rollout is over; its digest."""
    until = time.monotonic() + READY_S
    while not wanted(digest := served(platform)):
        assert time.monotonic() < until, digest
        time.sleep(POLL_S)
    platform.await_ready()
    return digest

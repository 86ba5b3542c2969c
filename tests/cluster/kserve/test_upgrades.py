"""What callers notice of an upgrade and of a rollback, and what an uninstallation leaves."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from tests.chart import RELEASE
from tests.cluster.kserve.platform import Platform

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(7200)]
CALLERS = 3
KINDS = (
    "inferenceservice",
    "inferencegraph",
    "servingruntime",
    "deployment",
    "service",
    "pod",
    "networkpolicy",
    "role",
)


@dataclass(frozen=True, kw_only=True)
class Load:
    """Callers that ask one question after another, and what came of it."""

    answered: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


@contextmanager
def _asked_meanwhile(platform: Platform) -> Iterator[Load]:
    load, over = Load(), threading.Event()
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "experts": False}

    def ask() -> None:
        with platform.client() as caller:
            while not over.is_set():
                try:
                    response = caller.post(f"{platform.orchestrator}/v1/chat/completions", json=body)
                except httpx.HTTPError as error:
                    load.lost.append(repr(error))
                    continue
                if response.is_success:
                    load.answered.append(time.monotonic())
                else:
                    load.lost.append(f"{response.status_code} {response.text}")

    with ThreadPoolExecutor(CALLERS) as pool:
        futures = [pool.submit(ask) for _ in range(CALLERS)]
        try:
            yield load
        finally:
            over.set()
        for future in futures:
            future.result()


def _served(platform: Platform) -> str:
    """Digest of the weights that answer."""
    with platform.client() as caller:
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1, "experts": False}
        told = caller.post(f"{platform.orchestrator}/v1/chat/completions", json=body).json()
    return str(told["provenance"]["model_digest"])


def test_a_rolling_upgrade_under_load_loses_nothing_and_a_rollback_brings_the_old_version(platform: Platform) -> None:
    before = _served(platform)
    with _asked_meanwhile(platform) as load:
        platform.apply({"vlm": {"model": "pvc://weights/another"}, "orchestrator": {"resources": {"memory": "800Mi"}}})
        platform.await_ready()
        upgraded = time.monotonic()
        time.sleep(10)
        after = _served(platform)
    assert load.lost == []
    assert min(load.answered) < upgraded < max(load.answered)
    assert after != before
    platform.helm("rollback", RELEASE)
    platform.await_ready()
    assert _served(platform) == before


def test_an_uninstallation_leaves_nothing(platform: Platform) -> None:
    platform.helm("uninstall", RELEASE, "--wait", "--timeout=20m")
    platform.await_gone(*KINDS)
    left = json.loads(platform.kubectl("get", "deployment,service,persistentvolumeclaim", "-o", "json"))["items"]
    assert {item["metadata"]["name"] for item in left} == {"s3", "weights"}

"""Many callers and slow ones: what the endpoint holds, and what it tells those whom it does not."""

import asyncio
import contextlib
import json
import resource
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from fastapi import FastAPI

from serving import app as routes
from serving import health
from serving.answer import Service
from serving.health import Health
from serving.lanes import Lane, Places
from serving.tenants import Tenants
from tests.unit.serving.fakes import RuleEngine
from tests.unit.serving.live import live
from vilam3.consultant import Consultant

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
STREAMS = 1000
MIB = 1 << 20


@contextlib.contextmanager
def endpoint(folder: Path, engine: RuleEngine, *, waiting: int) -> Iterator[tuple[str, Service]]:
    """A real server on a port of this process; one caller may take every place."""
    service = Service.create(Consultant(engine=engine, model_digest="d" * 64), tenants=Tenants(), work=folder)
    service.dialogues, service.places = Lane("dialogues", workers=64, waiting=waiting), Places(2 * STREAMS)
    service.readers = Lane("readers", workers=2, waiting=2 * STREAMS)
    application = FastAPI()
    health.install(application, Health())
    routes.install(application, service)
    with live(application) as url:
        yield url, service
    service.close()


async def stream(url: str, text: str) -> tuple[int, str]:
    """Status and last line of one streamed answer, over a bare connection."""
    port = int(url.rpartition(":")[2])
    body = json.dumps({"messages": [{"role": "user", "content": text}], "stream": True, "store": False})
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        answer = (await reader.read()).decode()
    finally:
        writer.close()
    return int(answer.split(" ", 2)[1]), answer


@pytest.mark.parametrize("waiting", [STREAMS, 100], ids=["held", "refused beyond the bound"])
def test_a_thousand_streams_end_or_are_told_when_to_come_back(tmp_path: Path, waiting: int) -> None:
    """Every one of them; and the probe is answered meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    slowest = 0.0

    async def probes(url: str, done: asyncio.Event) -> None:
        nonlocal slowest
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            while not done.is_set():
                began = time.perf_counter()
                assert (await client.get(f"{url}/v2/health/ready")).status_code == 200
                slowest = max(slowest, time.perf_counter() - began)
                await asyncio.sleep(0.2)

    async def all_of_them(url: str) -> list[tuple[int, str]]:
        done = asyncio.Event()
        probing = asyncio.create_task(probes(url, done))
        answers = await asyncio.gather(*(stream(url, "hello") for _ in range(STREAMS)))
        done.set()
        await probing
        return answers

    try:
        with endpoint(tmp_path, RuleEngine(token_s=0.2), waiting=waiting) as (url, service):
            answers = asyncio.run(all_of_them(url))
            assert service.dialogues.in_flight == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    statuses = Counter(status for status, _ in answers)
    assert set(statuses) <= {200, 429}
    assert statuses[200] >= min(STREAMS, waiting)
    for status, text in answers:
        if status == 200:
            assert "[DONE]" in text
        else:
            assert "retry-after: " in text.lower()
    assert slowest < 120  # of a machine that may be busy with other things; test_roles holds it to 0.1 s


def test_a_reader_who_does_not_read_costs_others_nothing(tmp_path: Path) -> None:
    """The reply waits in memory, which its own length bounds; when the reader leaves, it is gone."""
    before = psutil.Process().memory_info().rss
    with endpoint(tmp_path, RuleEngine(), waiting=10) as (url, service), httpx.Client(trust_env=False) as client:
        port = int(url.rpartition(":")[2])

        async def lazy() -> None:
            body = json.dumps({"messages": [{"role": "user", "content": "a novel, please"}], "stream": True})
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            await reader.readline()
            for _ in range(10):
                hello = {"messages": [{"role": "user", "content": "hello"}]}
                other = await asyncio.to_thread(client.post, f"{url}/v1/chat/completions", json=hello, timeout=60)
                assert other.json()["answer"] == "no"
            writer.close()

        asyncio.run(lazy())
        end = time.monotonic() + 60
        while service.dialogues.in_flight:
            assert time.monotonic() < end, "the reply outlives its reader"
            time.sleep(0.05)
    assert psutil.Process().memory_info().rss - before < 100 * MIB

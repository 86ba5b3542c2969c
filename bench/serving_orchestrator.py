"""What the orchestrator adds to a streamed reply: beside a bare reverse proxy and KServe's own router, in the same run.

Stub engines stream 30 tokens a second; chats arrive one by one at a steady rate, whether or not earlier ones are done
(open loop), so that about `CHATS` are in flight. The engine writes into each token when it left; so the time that a
token takes from the engine to the caller is measured on one clock, and what an orchestrator adds is that time less the
time of the same tokens straight from the engine. ``python -m bench.serving_orchestrator`` prints the figures alone.
"""

import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.open_loop import Heard, chats
from bench.record import Figure
from vilam3.services.engine import MODEL

RATE_HZ = 30.0
TOKENS = 60
CHATS = 64
RUN_S = 20.0
WARM_UP_S = 4.0
FAILING = 10_000
FAILING_AT_A_TIME = 32
RESTART_RATE_HZ = 20.0
RESTART_S = 30.0
READY_S = 300.0
ROUTER_PORT = 8080  # KServe's router knows no other
MEGABYTE = 1_000_000
QUESTION = {"messages": [{"role": "user", "content": "Is there a tumor?"}], "stream": True, "store": False}


def figures() -> list[Figure]:
    """Measure everything, in one run on one machine."""
    with tempfile.TemporaryDirectory(prefix="vilam3-bench-") as name:
        folder = Path(name)
        with contextlib.ExitStack() as running:
            engine = running.enter_context(started(folder, "engine", ["bench.stub_engine", "PORT"]))
            proxy = running.enter_context(started(folder, "proxy", ["bench.stub_engine", "PORT", "--proxy", engine]))
            ours = running.enter_context(started(folder, "orchestrator", _orchestrator(engine)))
            told = _latency(engine, proxy, ours)
            told += _routed(folder, engine)
            told.append(_memory(running, folder))
            told.append(_restart(folder, engine))
    return told


def _latency(engine: str, proxy: str, ours: str) -> list[Figure]:
    """Each path in turn, the straight one before and after, so that a machine that got slower is seen."""
    straight, through, proxied = (asyncio.run(_chats(url)) for url in (engine, ours, proxy))
    base_s, proxy_s = _quantiles(straight.delays_s), _quantiles(proxied.delays_s)
    ours_s = _quantiles(through.delays_s)
    return [
        Figure(name="added_latency_p50_ms", value=_ms(ours_s[50] - base_s[50]), unit="ms", baseline=5.0),
        Figure(name="added_latency_p99_ms", value=_ms(ours_s[99] - base_s[99]), unit="ms", baseline=20.0),
        Figure(name="added by a bare reverse proxy, p50", value=_ms(proxy_s[50] - base_s[50]), unit="ms"),
        Figure(name="added by a bare reverse proxy, p99", value=_ms(proxy_s[99] - base_s[99]), unit="ms"),
        Figure(
            name="first event after the engine's first token, p50",
            value=_ms(statistics.median(through.firsts_s)),
            unit="ms",
            baseline=50.0,
        ),
        Figure(
            name="first event after the engine's first token, p99",
            value=_ms(_quantiles(through.firsts_s)[99]),
            unit="ms",
            baseline=50.0,
        ),
        Figure(name=f"chats lost of about {CHATS} in flight", value=through.failed, unit=""),
    ]


def _routed(folder: Path, engine: str) -> list[Figure]:
    """KServe's router streams nothing: what it adds is that a caller sees the first word when the last is said."""
    with _router(folder, engine) as url:
        if not url:
            print("KServe's router: SKIPPED: name its program in VILAM3_KSERVE_ROUTER, and leave port 8080 free")
            return []
        whole = asyncio.run(_chats(url, path="/"))
    if not whole.firsts_s:
        return [Figure(name="answers of KServe's router that came", value=0, unit="")]
    return [
        Figure(
            name="KServe's router: first event after the engine's first token, p50",
            value=_ms(statistics.median(whole.firsts_s)),
            unit="ms",
        )
    ]


def _memory(running: contextlib.ExitStack, folder: Path) -> Figure:
    """An orchestrator whose engine refuses every question: memory after 10,000 of them, by what it was at 1,000."""
    broken = running.enter_context(started(folder, "broken", ["bench.stub_engine", "PORT", "--broken"]))
    url = running.enter_context(started(folder, "failing", _orchestrator(broken)))
    process = _process_of(url)
    asyncio.run(_failing(url, FAILING // 10))
    before = process.memory_info().rss
    asyncio.run(_failing(url, FAILING))
    grown_mb = (process.memory_info().rss - before) / MEGABYTE
    return Figure(name=f"memory grown over {FAILING} failing requests", value=round(grown_mb, 2), unit="MB")


def _restart(folder: Path, engine: str) -> Figure:
    """Questions that were lost while one orchestrator took the place of another, 20 a second."""
    lost, asked = asyncio.run(_restarting(folder, engine))
    return Figure(name=f"questions lost in a rolling restart, of {asked}", value=lost, unit="")


async def _chats(url: str, *, path: str = "/v1/chat/completions") -> Heard:
    """Open loop: about `CHATS` in flight."""
    body = QUESTION if path != "/" else {**QUESTION, "model": MODEL}
    return await chats(url, path, body, every_s=TOKENS / RATE_HZ / CHATS, warm_up_s=WARM_UP_S, run_s=RUN_S)


async def _failing(url: str, count: int) -> None:
    gate = asyncio.Semaphore(FAILING_AT_A_TIME)
    body = {**QUESTION, "stream": False}
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:

        async def once() -> None:
            async with gate:
                response = await client.post("/v1/chat/completions", json=body)
                assert response.status_code >= httpx.codes.BAD_REQUEST, response.text

        await asyncio.gather(*(once() for _ in range(count)))


async def _restarting(folder: Path, engine: str) -> tuple[int, int]:
    """The new one is ready before the old one is told to end, as a Deployment does it."""
    lost, tasks, addresses = 0, [], []
    old = started(folder, "old", [*_orchestrator(engine), "--drain-s", "2"])
    addresses.append(old.__enter__())

    async def once(client: httpx.AsyncClient) -> None:
        nonlocal lost
        body = {**QUESTION, "stream": False}
        try:
            answer = await client.post(f"{addresses[-1]}/v1/chat/completions", json=body)
            lost += answer.status_code != httpx.codes.OK
        except httpx.HTTPError:
            lost += 1

    async def replace() -> None:
        new = started(folder, "new", [*_orchestrator(engine), "--drain-s", "2"])
        addresses.append(await asyncio.to_thread(new.__enter__))
        await asyncio.to_thread(old.__exit__, None, None, None)
        closing.append(new)

    closing: list[Any] = []
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        begin, replacing = time.monotonic(), asyncio.create_task(replace())
        while time.monotonic() - begin < RESTART_S or not replacing.done():
            tasks.append(asyncio.create_task(once(client)))
            await asyncio.sleep(max(0.0, begin + len(tasks) / RESTART_RATE_HZ - time.monotonic()))
        await asyncio.gather(*tasks)
    for context in closing:
        context.__exit__(None, None, None)
    return lost, len(tasks)


def _orchestrator(engine: str) -> list[str]:
    most = ["--per-tenant", "1000"]
    return ["vilam3", "serve", "--role", "orchestrator", "--vlm", engine, "--port", "PORT", "--warmup-s", "0", *most]


@contextlib.contextmanager
def started(folder: Path, name: str, command: Sequence[str]) -> Iterator[str]:
    """Run ``python -m <command>`` on a free port until it answers; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    words = [sys.executable, "-m", *(str(port) if word == "PORT" else word for word in command)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment)  # noqa: S603 - our own
    url = f"http://127.0.0.1:{port}"
    try:
        _await_ready(process, url, folder / f"{name}.log")
        yield url
    finally:
        process.terminate()
        process.wait()


def _await_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/v2/health/ready", trust_env=False).is_success:
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"not ready within {READY_S} s: {log.read_text()}")


def _process_of(url: str) -> psutil.Process:
    """The process that listens at an address."""
    port = int(url.rpartition(":")[2])
    listening = next(
        one
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port
    )
    return psutil.Process(listening.pid)


@contextlib.contextmanager
def _router(folder: Path, engine: str) -> Iterator[str]:
    """KServe's router with one step, the engine; nothing where its program is not at hand."""
    program = os.environ.get("VILAM3_KSERVE_ROUTER") or _built()
    with socket.socket() as probe:
        is_taken = probe.connect_ex(("127.0.0.1", ROUTER_PORT)) == 0
    if not program or is_taken:
        yield ""
        return
    step = {"name": MODEL, "serviceUrl": f"{engine}/v1/chat/completions"}
    graph = json.dumps({"nodes": {"root": {"routerType": "Sequence", "steps": [step]}}})
    with (folder / "router.log").open("wb") as log:
        process = subprocess.Popen([program, "--graph-json", graph], stdout=log, stderr=log)  # noqa: S603 - pinned
    try:
        time.sleep(1)
        yield f"http://127.0.0.1:{ROUTER_PORT}"
    finally:
        process.kill()  # told to end, it would sleep for half a minute first
        process.wait()


def _built() -> str:
    """The router that the cluster's tools have built, or nothing."""
    found = sorted(Path.home().glob(".cache/vilam3/tools/kserve-*/bin/kserve-router"))
    return str(found[-1]) if found else ""


def _quantiles(values: Sequence[float]) -> dict[int, float]:
    cut = statistics.quantiles(values, n=100, method="inclusive")
    return {share: cut[share - 1] for share in (50, 99)}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


if __name__ == "__main__":
    for measured in figures():
        print(f"{measured.name}: {measured.value} {measured.unit}")

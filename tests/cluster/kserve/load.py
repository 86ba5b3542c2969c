"""Requests that come when they are due, whatever became of those before them: what many callers at once look like."""

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

PER_SECOND = 20
QUESTION_EVERY = 10  # of the requests, one in so many asks the model; the others ask which models there are
TIMEOUT_S = 120.0
NOT_KEPT = httpx.Limits(max_connections=None, max_keepalive_connections=0)  # each request connects anew
HELLO: Mapping[str, Any] = {
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 1,
    "experts": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request: when it was due and when it was sent and answered, in seconds from the start; why it was lost."""

    asks_model: bool
    due_s: float
    sent_s: float
    done_s: float
    lost: str = ""


@dataclass(slots=True, kw_only=True)
class Load:
    """A constant stream of requests to one endpoint, each over a connection of its own."""

    url: str
    key: str
    per_second: float = PER_SECOND
    question_every: int = QUESTION_EVERY
    requests: list[Request] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _began: float = field(default_factory=time.monotonic)

    @property
    def lost(self) -> list[str]:
        """What became of the requests that got no answer."""
        return [request.lost for request in self.requests if request.lost]

    @property
    def seconds(self) -> float:
        """From the first request to the last."""
        return max(request.sent_s for request in self.requests)

    @property
    def lateness_s(self) -> float:
        """How late the latest request was sent: what this generator itself lacked."""
        return max(request.sent_s - request.due_s for request in self.requests)

    def __str__(self) -> str:
        """What it was, in a line."""
        asked = sum(request.asks_model for request in self.requests)
        slowest_s = max(request.done_s - request.sent_s for request in self.requests)
        return (
            f"{len(self.requests)} requests in {self.seconds:.0f} s, {asked} to the model, {len(self.lost)} lost; "
            f"the slowest took {slowest_s:.1f} s, the latest was sent {self.lateness_s:.1f} s after it was due"
        )

    def elapsed_s(self) -> float:
        """Since the start."""
        return time.monotonic() - self._began

    def end(self) -> None:
        """Send no more."""
        self._over.set()

    async def run(self) -> None:
        """Send until `end` is called, and wait for what is under way."""
        under_way: list[asyncio.Task[None]] = []
        headers = {"Authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(
            base_url=self.url, headers=headers, limits=NOT_KEPT, trust_env=False, timeout=TIMEOUT_S
        ) as client:
            while not self._over.is_set():
                number = len(under_way)
                due_s = number / self.per_second
                await asyncio.sleep(max(0.0, due_s - self.elapsed_s()))
                sending = self._send(client, due_s=due_s, asks_model=number % self.question_every == 0)
                under_way.append(asyncio.create_task(sending))
            await asyncio.gather(*under_way)

    async def _send(self, client: httpx.AsyncClient, *, due_s: float, asks_model: bool) -> None:
        sent_s = self.elapsed_s()
        lost = await _loss(client, asks_model=asks_model)
        self.requests.append(
            Request(asks_model=asks_model, due_s=due_s, sent_s=sent_s, done_s=self.elapsed_s(), lost=lost)
        )


async def _loss(client: httpx.AsyncClient, *, asks_model: bool) -> str:
    """Why a request got no answer; empty where it got one."""
    try:
        if asks_model:
            response = await client.post("/v1/chat/completions", json=HELLO)
        else:
            response = await client.get("/v1/models")
    except httpx.HTTPError as error:
        return repr(error)
    return "" if response.is_success else f"{response.status_code} {response.text}"


@contextmanager
def asked_meanwhile(
    url: str, *, key: str, per_second: float = PER_SECOND, question_every: int = QUESTION_EVERY
) -> Iterator[Load]:
    """Keep up the load while the block runs; afterwards every request has its outcome."""
    load = Load(url=url, key=key, per_second=per_second, question_every=question_every)
    thread = threading.Thread(target=lambda: asyncio.run(load.run()), name="load")
    thread.start()
    try:
        yield load
    finally:
        load.end()
        thread.join()

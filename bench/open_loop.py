"""Chats that begin at a steady rate, heard with as little work as can be: what listens must not be what is measured.

A client that parses each token as it comes takes more of the processors than what it measures, and on two of them its
own queue is then the slowest part of the path. So the time of each piece is noted as the kernel hands it over, and what
stood in it is read when the run is over.
"""

import asyncio
import json
import re
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any
from urllib.parse import urlsplit

EVENT = re.compile(rb"^data: (\{.*\})\r?$", re.MULTILINE)
GONE_S = 60.0


@dataclass(slots=True)
class Heard:
    """What callers saw.

    Attributes:
        delays_s: Of each token, from when it left the engine.
        firsts_s: Of each reply's first token.
        failed: Replies that did not come whole.
    """

    delays_s: list[float] = field(default_factory=list)
    firsts_s: list[float] = field(default_factory=list)
    failed: int = 0


class _Listener(asyncio.Protocol):
    """Sends one request and keeps what comes back, with its times."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.pieces: list[bytes] = []
        self.times_s: list[float] = []
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.times_s.append(time.perf_counter())
        self.pieces.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(exc)

    def tokens(self) -> Iterator[tuple[float, str]]:
        """When each text came, and the text; pieces may end anywhere."""
        ends = list(accumulate(map(len, self.pieces)))
        whole = b"".join(self.pieces)
        for found in EVENT.finditer(whole):
            came_s = self.times_s[bisect_left(ends, found.end())]
            for choice in json.loads(found[1]).get("choices", ()):
                if text := choice["delta"].get("content"):
                    yield came_s, text

    def is_whole(self) -> bool:
        """Whether the reply was a good one and came to its end."""
        told = self.pieces and self.pieces[0].split(maxsplit=2)[1:2]
        has_ended = self.ended.done() and self.ended.result() is None
        return has_ended and told == [b"200"] and b"data: [DONE]" in b"".join(self.pieces[-4:])


async def chats(
    url: str, path: str, body: Mapping[str, Any], *, every_s: float, warm_up_s: float, run_s: float
) -> Heard:
    """Ask every `every_s`, whether or not earlier replies are there; those begun while warming up are not counted."""
    begin, counted = time.monotonic(), []
    asked = 0
    async with asyncio.TaskGroup() as running:
        while (past_s := time.monotonic() - begin) < warm_up_s + run_s:
            chat = running.create_task(_chat(url, path, body))
            asked += 1
            if past_s > warm_up_s:
                counted.append(chat)
            await asyncio.sleep(max(0.0, begin + asked * every_s - time.monotonic()))
    return _read([chat.result() for chat in counted])


async def _chat(url: str, path: str, body: Mapping[str, Any]) -> _Listener | None:
    there, content = urlsplit(url), json.dumps(body).encode()
    host, port = there.hostname or "127.0.0.1", there.port or 80
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {there.netloc}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
    )
    loop, request = asyncio.get_running_loop(), head.encode() + content
    try:
        _, listener = await loop.create_connection(lambda: _Listener(request), host, port)
        await asyncio.wait_for(listener.ended, GONE_S)
    except OSError:  # TimeoutError is one
        return None
    return listener


def _read(listeners: list[_Listener | None]) -> Heard:
    heard = Heard()
    for listener in listeners:
        tokens = [] if listener is None else list(listener.tokens())
        heard.failed += listener is None or not listener.is_whole()
        delays_s = [came_s - float(left) for came_s, text in tokens for left in text.split()]
        heard.delays_s += delays_s
        heard.firsts_s += delays_s[:1]
    return heard

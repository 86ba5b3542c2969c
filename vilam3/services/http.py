"""How services of the graph are called: address, key, which answers are worth another try, and errors with their place.

A service that is starting, restarting or full says so by refusing the connection or by 429, 502, 503 or 504; such
calls are repeated while patience lasts. Everything else is an answer.
"""

import os
import random
import ssl
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx

from vilam3.errors import DataError, EngineError, ExpertError, TooLargeError, UserError, VilaM3Error
from vilam3.remote import KEY_VARIABLE, is_loopback

COLD = frozenset({429, 502, 503, 504})
FIRST_FAULT_OF_THEIRS = 500
NOT_FOUND = 404
CONNECT_S = 3.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
NOT_BEGUN = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def check_url(url: str, *, option: str) -> str:
    """The address without a trailing slash.

    Raises:
        UserError: it is not an HTTP URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UserError(f"{option} {url}: not an HTTP address; write it like http://127.0.0.1:8080")
    return url.rstrip("/").removesuffix("/v1")


def settings(url: str, *, read_s: float) -> dict[str, Any]:
    """What a client of `url` is made with; the key comes from ``VILAM3_API_KEY``."""
    key = os.environ.get(KEY_VARIABLE, "")
    return {
        "base_url": url,
        "timeout": httpx.Timeout(read_s, connect=CONNECT_S),
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=64),
        "verify": _certificates(),
        "trust_env": not is_loopback(urlsplit(url).hostname or ""),  # a proxy cannot reach our own loopback
    }


@cache
def _certificates() -> ssl.SSLContext:
    """Whom to trust; read once, since reading them takes longer than a call."""
    return httpx.create_ssl_context()


@dataclass(slots=True)
class Patience:
    """Counts down while a service is not up yet."""

    total_s: float
    _end: float = field(init=False)
    _pause_s: float = field(init=False, default=FIRST_PAUSE_S)

    def __post_init__(self) -> None:
        """Begin to count."""
        self._end = time.monotonic() + self.total_s

    @property
    def is_over(self) -> bool:
        """Whether to give up."""
        return time.monotonic() >= self._end

    def pause_s(self, response: httpx.Response | None = None) -> float:
        """How long to wait before the next try: as told, else longer each time, with some scatter."""
        told = "" if response is None else response.headers.get("retry-after", "")
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
        wished = float(told) if told.isdigit() else self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        return max(0.0, min(wished, LONGEST_PAUSE_S, self._end - time.monotonic()))


def complaint(response: httpx.Response) -> tuple[str, str]:
    """Message and code of a refusal, in whichever of the shapes that services use."""
    try:
        body = response.json()
        error = body["error"]
    except (ValueError, KeyError, TypeError):
        return f"answered with HTTP {response.status_code}", ""
    if isinstance(error, dict):
        return str(error.get("message", "")), str(error.get("code", ""))
    return str(error), ""


def refusal(body: Any) -> tuple[str, int]:  # noqa: ANN401 - whatever was said
    """Message and status of a refusal that comes within a stream, where the status line has long gone out."""
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {"message": str(error or "its stream ended with an error")}
    statuses = {"not_found_error": NOT_FOUND, "rate_limit_error": 429, "server_error": FIRST_FAULT_OF_THEIRS}
    return str(error.get("message", "")), statuses.get(str(error.get("type", "")), 400)


def engine_error(url: str, message: str, *, status: int) -> VilaM3Error:
    """What a refusal of the engine's service means here; a question it refused is the caller's to mend."""
    if status == NOT_FOUND or status >= FIRST_FAULT_OF_THEIRS or status in {401, 403, 429}:
        return EngineError(f"engine {url}: {message}")
    return (TooLargeError if status == 413 else DataError)(message)  # noqa: PLR2004 - HTTP's "content too large"


def expert_error(name: str, message: str, *, status: int) -> ExpertError:
    """What a refusal of an expert's service means: a sentence for the model and the reader."""
    if status == NOT_FOUND:
        return ExpertError(f"the study is not where the expert {name} looks for it ({message})")
    return ExpertError(message if status < FIRST_FAULT_OF_THEIRS else f"its service failed ({message})")

"""One question to one expert over HTTP: waits until the service takes it, follows its progress, reads its finding.

A service that knows how streams its progress as server-sent events; one that does not answers whole.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic import ValidationError

from vilam3 import tracing
from vilam3.errors import ExpertError
from vilam3.services.findings import Consultation, Finding
from vilam3.services.http import COLD, NOT_BEGUN, Patience, complaint, expert_error, refusal, settings

CARD_WAIT_S = 5.0
EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long an expert is waited for.

    Attributes:
        warmup_s: A service that does not answer the door: scaled to zero, starting, or all its places taken.
        total_s: Everything together, its computing included.
    """

    warmup_s: float = 120.0
    total_s: float = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What the service said in the end: the body of a finding or of a refusal."""

    body: Any = None
    status: int = 200
    trouble: str = ""
    response: httpx.Response | None = None

    @property
    def is_cold(self) -> bool:
        """Whether to ask again: nobody has begun to compute."""
        return self.status in COLD or self.status == 0


@dataclass(slots=True, kw_only=True)
class Visit:
    """A question on its way; `fraction` is how much of the expert's work is done."""

    name: str
    url: str
    waits: Waits
    fraction: float = field(init=False, default=0.0)

    async def ask(self, asked: Consultation) -> Finding:
        """Ask until the service has taken the question, and wait for what it finds.

        Raises:
            ExpertError: it is missing, cold, too slow or failing, or refuses.
        """
        end = time.monotonic() + self.waits.total_s
        patience = Patience(min(self.waits.warmup_s, self.waits.total_s))
        async with httpx.AsyncClient(**settings(self.url, read_s=self.waits.total_s)) as http:
            while True:
                told = await self._attempt(http, asked, left_s=end - time.monotonic())
                if not told.is_cold:
                    return self._finding(told)
                if patience.is_over:
                    raise ExpertError(
                        f"its service did not take the question within {patience.total_s:g} s ({told.trouble})."
                    )
                await asyncio.sleep(patience.pause_s(told.response))

    async def _attempt(self, http: httpx.AsyncClient, asked: Consultation, *, left_s: float) -> _Told:
        """One request."""
        body = {"instances": [asked.model_dump(mode="json")]}
        path = f"/v1/models/{self.name.lower()}:predict"
        try:
            with tracing.calling("ask an expert", expert=self.name) as headers:
                async with (
                    asyncio.timeout(max(0.0, left_s)),
                    http.stream("POST", path, json=body, headers={"Accept": EVENTS, **headers}) as response,
                ):
                    return await self._told(response)
        except NOT_BEGUN as error:
            return _Told(status=0, trouble=f"no connection: {type(error).__name__}")
        except (TimeoutError, httpx.TimeoutException) as error:
            raise ExpertError(f"it did not finish within {self.waits.total_s:g} s.") from error
        except httpx.HTTPError as error:
            raise ExpertError(f"its service broke off while it computed ({type(error).__name__}).") from error

    async def _told(self, response: httpx.Response) -> _Told:
        if response.is_success and response.headers.get("content-type", "").startswith(EVENTS):
            return await self._followed(response)
        await response.aread()
        trouble = complaint(response)[0] if response.is_error else ""
        return _Told(body=_parsed(response.text), status=response.status_code, trouble=trouble, response=response)

    async def _followed(self, response: httpx.Response) -> _Told:
        """Note the progress until the end is told."""
        async for event, value in _events(response):
            if event == "progress" and isinstance(value, dict):
                self.fraction = float(value.get("fraction", self.fraction))
            elif event == "result":
                return _Told(body=value)
            elif event == "error":
                message, status = refusal(value)
                return _Told(body=value, status=status, trouble=message)
        raise ExpertError("its service broke off while it computed.")

    def _finding(self, told: _Told) -> Finding:
        if told.trouble:
            raise expert_error(self.name, told.trouble, status=told.status)
        try:
            return Finding.model_validate(told.body["predictions"][0])
        except (ValueError, KeyError, IndexError, TypeError, ValidationError) as error:
            raise ExpertError(f"its service gave an answer that is not understood ({type(error).__name__}).") from error


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    """Name and value of each event."""
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            yield name, _parsed(line.removeprefix("data:"))
        elif not line:
            name = ""


def _parsed(text: str) -> Any:  # noqa: ANN401 - whatever was said
    try:
        return json.loads(text)
    except ValueError:
        return None

"""The engine of another process: `vilam3.dialogue.messages.Engine` over OpenAI's streamed chat completions.

The service sends a comment line several times a second while it has no token, so that the caller may look at its
bounds (an empty piece is yielded) and a service that has died is noticed in seconds.
"""

import json
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Self, cast, get_args

import httpx

from vilam3 import tracing
from vilam3.data.sample import Dialect
from vilam3.dialogue.messages import EngineStats, Generation, Message, Sampling
from vilam3.dialogue.tickets import StreamTicket
from vilam3.errors import DataError, EngineError, TooLargeError
from vilam3.services.content import to_wire
from vilam3.services.http import COLD, Patience, check_url, complaint, engine_error, settings

MODEL = "vlm"
SILENT_S = 20.0  # a service that says nothing at all for so long is dead
CARD_S = 15.0  # how long a card is believed
CARD_WAIT_S = 5.0
TICK_S = 0.05
SIDE_BY_SIDE = 16
DONE = "[DONE]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What the service says of its model."""

    digest: str
    dialect: Dialect
    engine: str


@dataclass(slots=True, kw_only=True)
class _Reply:
    """What has arrived of one reply; `told` is what an earlier try had told of it."""

    told: str = ""
    text: str = ""
    reason: str = ""
    digest: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reused_tokens: int = 0
    is_whole: bool = False

    def take(self, chunk: dict[str, Any]) -> str:
        """Note one chunk; returns the part of its text that is new."""
        usage = chunk.get("usage") or {}
        self.prompt_tokens = usage.get("prompt_tokens", self.prompt_tokens)
        self.completion_tokens = usage.get("completion_tokens", self.completion_tokens)
        self.reused_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", self.reused_tokens)
        self.digest = chunk.get("system_fingerprint") or self.digest
        piece = ""
        for choice in chunk.get("choices", ())[:1]:
            piece = choice.get("delta", {}).get("content") or ""
            self.reason = choice.get("finish_reason") or self.reason
        before, self.text = max(len(self.told), len(self.text)), self.text + piece
        common = min(len(self.told), len(self.text))
        if self.told[:common] != self.text[:common]:
            raise EngineError("engine: the service broke off, and another one says something else; ask again")
        return self.text[before:]

    def generation(self) -> Generation:
        return Generation(
            text=self.text,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            finish_reason="length" if self.reason == "length" else "stop",
            model_digest=self.digest,
            reused_tokens=self.reused_tokens,
        )


class RemoteEngine:
    """`Engine` of a service; safe to share between threads."""

    def __init__(self, url: str, *, patience_s: float = 60.0, option: str = "--vlm") -> None:
        """Prepare to talk to `url`; nothing is sent yet.

        Args:
            url: Where `vilam3 serve --role vlm` or another OpenAI-compatible server of the model listens.
            patience_s: How long a service that is starting, restarting or full is waited for.
            option: What a message about a bad address calls it.

        Raises:
            UserError: it is not an HTTP address.
        """
        self.url = check_url(url, option=option)
        self.name = MODEL
        self.patience_s = patience_s
        self._http = httpx.Client(**settings(self.url, read_s=SILENT_S))
        self._card: tuple[float, ModelCard] | None = None

    def __enter__(self) -> Self:
        """Use it within a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Drop the connections."""
        self._http.close()

    def card(self) -> ModelCard:
        """What the service says of its model, at most `CARD_S` old.

        Raises:
            EngineError: it does not say.
        """
        if self._card is not None and time.monotonic() - self._card[0] < CARD_S:
            return self._card[1]
        try:
            response = self._http.get(f"/v1/models/{MODEL}", timeout=CARD_WAIT_S)
        except httpx.HTTPError as error:
            if self._card is not None:  # an old card is better than none: the service may only be restarting
                return self._card[1]
            raise self._lost(error) from error
        if not response.is_success:
            raise EngineError(f"engine {self.url}: {complaint(response)[0]}; is it vilam3 serve --role vlm?")
        card = self._parsed(response)
        self._card = (time.monotonic(), card)
        self.name = card.engine
        return card

    def submit(self, messages: Sequence[Message], sampling: Sampling, *, priority: int = 0) -> StreamTicket:
        """See `Engine.submit`."""
        return StreamTicket(lambda cancelled: self.stream(messages, sampling, cancelled=cancelled, priority=priority))

    def stats(self) -> EngineStats:
        """See `Engine.stats`; the service tells its own at /metrics."""
        return EngineStats()

    def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        cancelled: threading.Event | None = None,
        priority: int = 0,
    ) -> Iterator[str | Generation]:
        """See `Engine.stream`; leaving it early ends the work of the service.

        A service that breaks off is asked again; where decoding is greedy also in the middle of a reply, since another
        try says the same.
        """
        body, patience, told = _request(messages, sampling, priority), Patience(self.patience_s), ""
        while True:
            reply = _Reply(told=told)
            try:
                pause_s = yield from self._attempt(body, reply, patience)
            except httpx.TransportError as error:
                if len(reply.text) > len(told):  # it had come further than ever, so it is another break-down
                    told, patience = reply.text, Patience(self.patience_s)
                if patience.is_over or (told and sampling.temperature > 0):
                    raise self._lost(error) from error
                pause_s = patience.pause_s()
            if reply.is_whole:
                yield reply.generation()
                return
            if cancelled is not None and cancelled.is_set():
                yield replace(reply.generation(), finish_reason="cancelled")
                return
            yield from _pause(pause_s)

    def generate(self, batch: Sequence[Sequence[Message]], sampling: Sampling) -> list[Generation]:
        """See `Engine.generate`; the service decodes them side by side as far as it can."""
        if not batch:
            return []
        with ThreadPoolExecutor(min(len(batch), SIDE_BY_SIDE)) as pool:
            return list(pool.map(lambda messages: self._whole(messages, sampling), batch))

    def _whole(self, messages: Sequence[Message], sampling: Sampling) -> Generation:
        *_, last = self.stream(messages, sampling)
        return cast("Generation", last)

    def _attempt(self, body: dict[str, Any], reply: _Reply, patience: Patience) -> Generator[str, None, float]:
        """One request; ends with how long to wait where the service is not ready for it."""
        with (
            tracing.calling("ask the language model") as headers,
            self._http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response,
        ):
            if response.is_error:
                response.read()
                if response.status_code in COLD and not patience.is_over:
                    return patience.pause_s(response)
                raise engine_error(self.url, complaint(response)[0], status=response.status_code)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield self._piece(line.removeprefix("data: "), reply)
                else:
                    yield ""
                if reply.is_whole:
                    return 0.0
        raise EngineError(f"engine {self.url}: the reply ended before its end; ask again")

    def _piece(self, data: str, reply: _Reply) -> str:
        if data == DONE:
            reply.is_whole = bool(reply.reason)
            return ""
        try:
            chunk: dict[str, Any] = json.loads(data)
        except ValueError as error:
            raise EngineError(
                f"engine {self.url}: what it streams is not understood; is it of this version?"
            ) from error
        if "error" in chunk:
            message, kind = chunk["error"].get("message", ""), chunk["error"].get("type", "")
            if kind == "invalid_request_error":
                raise (TooLargeError if chunk["error"].get("code") == "too_large_error" else DataError)(message)
            raise EngineError(f"engine {self.url}: {message}")
        return reply.take(chunk)

    def _parsed(self, response: httpx.Response) -> ModelCard:
        try:
            told = response.json()
            dialects: tuple[Dialect, ...] = get_args(Dialect)
            dialect = next(known for known in dialects if known == told.get("dialect", "demo"))
            return ModelCard(digest=str(told.get("digest", "")), dialect=dialect, engine=str(told.get("engine", MODEL)))
        except (ValueError, AttributeError, StopIteration) as error:
            raise EngineError(f"engine {self.url}: its model card is not understood; is it of this version?") from error

    def _lost(self, error: Exception) -> EngineError:
        return EngineError(
            f"engine {self.url}: no answer ({type(error).__name__}); start one with vilam3 serve --role vlm, or "
            "correct the address"
        )


def _request(messages: Sequence[Message], sampling: Sampling, priority: int) -> dict[str, Any]:
    wire = to_wire(messages)
    if sampling.system_prompt is not None:
        wire.insert(0, {"role": "system", "content": sampling.system_prompt})
    return {
        "model": MODEL,
        "messages": wire,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_completion_tokens": sampling.max_new_tokens,
        "min_tokens": sampling.min_new_tokens,
        **({} if sampling.seed is None else {"seed": sampling.seed}),
        **({"stop": list(sampling.stop), "include_stop_str_in_output": True} if sampling.stop else {}),
        **({"structured_outputs": {"regex": sampling.pattern}} if sampling.pattern is not None else {}),
        **({"cache_salt": sampling.scope} if sampling.scope else {}),
        **({"priority": priority} if priority else {}),
        **({"task": sampling.task} if sampling.task else {}),
    }


def _pause(seconds: float) -> Iterator[str]:
    """Wait, and let the caller look meanwhile."""
    end = time.monotonic() + seconds
    while (left_s := end - time.monotonic()) > 0:
        time.sleep(min(TICK_S, left_s))
        yield ""

"""The language model as a service of its own: OpenAI's chat completions, streamed or whole, and no expert loop.

While there is no token a stream carries comment lines, by which a caller sees that the model is still at work.
"""

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from serving import cards, guard, metrics, refusals, sse
from serving.flow import Flow
from serving.lanes import Lane
from serving.reply_wire import ReplyRequest
from serving.tenants import Tenants
from vilam3 import tracing
from vilam3.data.sample import Dialect
from vilam3.dialogue.messages import Engine, Generation, Message, Sampling
from vilam3.engines import EngineChoice
from vilam3.errors import EngineError, NotFoundError
from vilam3.services.engine import MODEL

STILL_AT_WORK = ": at work\n\n"
PLAIN = EngineChoice()

router = APIRouter(default_response_class=JSONResponse)
Reply = Flow[str, Generation]


@dataclass(slots=True, kw_only=True)
class ModelService:
    """Everything these routes need.

    Attributes:
        engine: Generates.
        digest: Of its weights.
        dialect: The wording it was trained in.
        tenants: Who may ask.
        replies: Where replies are decoded.
        readers: Where pictures are read; apart, so that a request is not silent until a reply's place is free.
        started: Unix time.
    """

    engine: Engine
    digest: str
    dialect: Dialect
    tenants: Tenants
    replies: Lane = field(default_factory=lambda: lane(slots=PLAIN.slots, waiting=PLAIN.waiting))
    readers: Lane = field(default_factory=lambda: Lane("readers", workers=2, waiting=PLAIN.waiting))
    started: int = field(default_factory=lambda: int(time.time()))

    def begin(self, messages: list[Message], sampling: Sampling, *, priority: int = 0) -> Reply:
        """Queue a reply.

        Raises:
            BusyError: too many wait.
        """
        work = partial(self.decode, messages=messages, sampling=sampling, priority=priority)
        return Flow(self.replies, work, is_urgent=priority < 0)

    def card(self) -> dict[str, Any]:
        """What is said of the model."""
        told = {"digest": self.digest, "dialect": self.dialect, "engine": self.engine.name}
        return cards.card_of(self.model, created=self.started, **told)

    @property
    def model(self) -> str:
        """The name of the one model."""
        return MODEL

    def close(self) -> None:
        """Let threads end."""
        self.replies.close()
        self.readers.close()
        self.engine.close()

    def decode(
        self, flow: Flow[str, Any], messages: list[Message], sampling: Sampling, *, priority: int = 0
    ) -> Generation:
        """The work itself; blocking. Pieces are told to `flow`.

        Raises:
            DataError: the question does not fit, or pictures and placeholders disagree.
            EngineError: the engine failed.
        """
        with metrics.consulting(metrics.VLM), tracing.span("decode"):
            ticket = self.engine.submit(messages, sampling, priority=priority)
            with closing(cast("Any", iter(ticket))) as stream:
                for piece in stream:
                    if isinstance(piece, Generation):
                        return piece
                    if flow.cancelled.is_set():
                        ticket.cancel()
                    if piece:
                        flow.tell(piece)
        raise EngineError(f"engine {self.engine.name}: the stream ended without a result; ask again")


def lane(*, slots: int, waiting: int) -> Lane:
    """Where replies are decoded: as many threads as the engine has places, which also keeps its own queue short."""
    return Lane("replies", workers=slots, waiting=waiting, urgent=waiting // 4)


def install(app: FastAPI, service: ModelService) -> None:
    """Put the routes on an application, before its own."""
    app.state.model = service
    cards.install(app, service)
    app.include_router(router)
    refusals.install(app)
    guard.install(app)


def _admitted(request: Request) -> ModelService:
    service: ModelService = request.app.state.model
    service.tenants.of(request.headers)
    return service


Admitted = Annotated[ModelService, Depends(_admitted)]


@router.post("/v1/chat/completions", response_model=None)
async def chat(body: ReplyRequest, request: Request, service: Admitted) -> Response:
    """One reply, streamed or whole."""
    if body.model != MODEL:
        raise NotFoundError(f"model {body.model!r}: not served here; use {MODEL!r}")
    messages = await service.readers.run(body.conversation)
    sampling = body.sampling(tenant=service.tenants.of(request.headers))
    reply = service.begin(messages, sampling, priority=body.priority)
    head = {"id": f"chatcmpl-{secrets.token_hex(16)}", "created": int(time.time()), "model": MODEL}
    head["system_fingerprint"] = service.digest
    if not body.stream:
        return JSONResponse(_whole(head, await reply.outcome(gone=request.is_disconnected)))
    return sse.response(_lines(reply, request, head, with_usage=body.with_usage))


async def _lines(reply: Reply, request: Request, head: dict[str, Any], *, with_usage: bool) -> AsyncIterator[str]:
    yield _chunk(head, {"role": "assistant", "content": ""})
    try:
        async for piece in reply.events(gone=request.is_disconnected):
            yield STILL_AT_WORK if piece is None else _chunk(head, {"content": piece})
        generation = reply.result()
        yield _chunk(head, {}, finish_reason=_reason(generation))
        if with_usage:
            yield sse.data({**head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(generation)})
    except Exception as error:  # noqa: BLE001 - the status line is gone: what is left is to say so in the stream
        yield sse.data(refusals.body(error))
    yield sse.DONE


def _whole(head: dict[str, Any], generation: Generation) -> dict[str, Any]:
    message = {"role": "assistant", "content": generation.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(generation)}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(generation)}


def _chunk(head: dict[str, Any], delta: dict[str, Any], *, finish_reason: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return sse.data({**head, "object": "chat.completion.chunk", "choices": [choice]})


def _reason(generation: Generation) -> str:
    return "length" if generation.finish_reason == "length" else "stop"


def _usage(generation: Generation) -> dict[str, Any]:
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
        "total_tokens": generation.prompt_tokens + generation.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": generation.reused_tokens},
    }

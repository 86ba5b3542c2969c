"""``POST /v1/models/<expert>:predict`` as server-sent events: how far the expert is, then what it found.

The route is taken only by a caller who accepts ``text/event-stream``; for everyone else KServe's own route of the same
address answers. Closing the connection stops the expert between two steps of its work.
"""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.routing import Match
from starlette.types import Scope

from serving import refusals
from serving.expert import ExpertService
from serving.flow import Flow
from serving.presence import Gone, gone
from vilam3.errors import NotFoundError, VilaM3Error
from vilam3.experts.protocol import Watch
from vilam3.services.findings import Consultation, Finding

MOST_INSTANCES = 16
EVENT_STREAM = b"text/event-stream"
SILENT_TURNS = 100  # of about 0.1 s, after which a comment keeps proxies from closing the connection

log = logging.getLogger(__name__)


class Consultations(BaseModel):
    """The body of V1 ``:predict``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    instances: list[Consultation] = Field(min_length=1, max_length=MOST_INSTANCES)


class StreamRoute(APIRoute):
    """A route for callers who accept events; to others it is not there."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether this route answers."""
        match, child = super().matches(scope)
        accepts = (value for name, value in scope.get("headers", ()) if name == b"accept")
        return (match if any(EVENT_STREAM in value for value in accepts) else Match.NONE), child


router = APIRouter(route_class=StreamRoute)


@router.post("/v1/models/{name}:predict", response_model=None)
async def predict(name: str, asked: Consultations, request: Request) -> StreamingResponse:
    """Answer every instance, one after the other, and tell how far all of them are."""
    service: ExpertService = request.app.state.expert
    service.tenants.of(request.headers)
    if name != service.model:
        raise NotFoundError(f"model {name!r}: not served here; use {service.model!r}")
    flow = service.begin(partial(_answered, service, asked.instances))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_lines(flow, gone()), media_type=EVENT_STREAM.decode(), headers=headers)


def _answered(service: ExpertService, instances: list[Consultation], watch: Watch) -> list[Finding]:
    findings = []
    for number, asked in enumerate(instances):

        def share(fraction: float, /, *, number: int = number) -> None:
            watch((number + fraction) / len(instances))

        findings.append(service.run(asked, watch=share))
    return findings


async def _lines(flow: Flow[float, list[Finding]], has_gone: Gone) -> AsyncIterator[str]:
    silent = 0
    async with aclosing(flow.events(gone=has_gone)) as fractions:
        async for fraction in fractions:
            silent = silent + 1 if fraction is None else 0
            if fraction is not None:
                yield _event("progress", {"fraction": round(fraction, 4)})
            elif silent % SILENT_TURNS == 0:
                yield ": still at work\n\n"
    try:
        findings = flow.result()
    except VilaM3Error as error:
        yield _event("error", refusals.body(error))
    except Exception as error:  # noqa: BLE001 - the status line is gone: what is left is to say so in the stream
        log.error("expert failed: %s", type(error).__name__)  # noqa: TRY400 - messages may quote the request
        yield _event("error", refusals.body(error))
    else:
        yield _event("result", {"predictions": [finding.model_dump(mode="json") for finding in findings]})


def _event(kind: str, data: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"

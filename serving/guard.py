"""Around every request: a bound on its body, one log line without content, and no stack trace for anybody."""

import logging
import time
import traceback
from collections.abc import Mapping

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from serving import refusals
from serving.middleware import Around
from serving.presence import Presence
from vilam3 import tracing
from vilam3.errors import TooLargeError

MIB = 1 << 20
ANY_BODY_BYTES = 32 * MIB
# The one with a slash at its end takes files from Slicer; the one without takes JSON (see `serving.radcopilot`).
BODY_BYTES: Mapping[str, int] = dict.fromkeys(
    ("/v1/studies", "/v1/studies/", "/upload", "/upload/", "/v1/chat/completions/"), 2048 * MIB
)

log = logging.getLogger("serving.requests")


def install(app: FastAPI) -> None:
    """Put what stands around every request of every role on an application."""
    app.add_middleware(Presence)
    app.add_middleware(BoundedBody)
    app.add_middleware(Watched)  # added last, so it is outermost


class BoundedBody(Around):
    """Refuses bodies beyond a bound, by their header or, where it lies or is missing, while they come in."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        most = BODY_BYTES.get(scope["path"], ANY_BODY_BYTES)
        if _declared(scope) > most:
            await refusals.response(_too_large(most))(scope, receive, send)
            return
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise _too_large(most)
            return message

        await self._app(scope, bounded, send)


class Watched(Around):
    """Logs method, route template, status and milliseconds; turns what nobody caught into a plain 500."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        status = 0
        started = time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with tracing.continued(scope["method"], Headers(scope=scope)) as span:
            try:
                await self._app(scope, receive, noted)
            except Exception as error:  # noqa: BLE001 - the last boundary before the server, which would print it
                _log_fault(error)
                if not status:
                    await refusals.response(error)(scope, receive, noted)
            finally:
                span.update_name(f"{scope['method']} {_route(scope)}")
                tracing.note(span, status=status)
                _log_request(scope, status, started)


def _log_request(scope: Scope, status: int, started: float) -> None:
    fields = {"method": scope["method"], "route": _route(scope), "status": status}
    log.info("request", extra={**fields, "ms": round((time.perf_counter() - started) * 1000, 1)})


def _route(scope: Scope) -> str:
    """The template: ids are neither logged nor traced."""
    return getattr(scope.get("route"), "path", "(no route)")


def _log_fault(error: Exception) -> None:
    """Where it happened and what kind it was; messages may quote images' headers or the question."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames))
    log.error("unexpected failure", extra={"kind": type(error).__name__, "where": where})


def _declared(scope: Scope) -> int:
    value = dict(scope["headers"]).get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(f"request body: more than the limit of {most // MIB} MiB; upload images to /v1/studies")

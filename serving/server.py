"""Our routes on the KServe model server, which brings liveness, metrics and the V1 and V2 protocols.

KServe opens its own logging, binds every address, and prints requests with their paths; this module is where each of
these is put right.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from fastapi import FastAPI

from serving import garbage, health
from serving.address import check_free
from serving.framework import ModelServer, app
from serving.grpc import GrpcServer
from serving.health import Health

READY_POLL_S = 0.05
GRACE_S = 900  # longer than an answer, or an expert on a large volume, may take


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a process serves.

    Attributes:
        install: Puts its routes on an application.
        models: Its KServe models.
        close: Lets its threads end.
        health: Whether it wants requests.
    """

    install: Callable[[FastAPI], None]
    models: Callable[[], list[Any]]
    close: Callable[[], None]
    health: Health = field(default_factory=Health)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where and how a process listens.

    Attributes:
        host: Address to bind.
        port: Port to bind.
        drain_s: After SIGTERM, how long connections are still taken while readiness is already false.
        grpc_port: Port for KServe's V2 protocol over gRPC, or None for HTTP alone.
    """

    host: str
    port: int
    drain_s: float = 0.0
    grpc_port: int | None = None


class Server(ModelServer):
    """KServe's server on a chosen address, which tells its readiness before it stops to listen."""

    def __init__(self, listening: Listening, ready: Health) -> None:
        """Prepare to listen; nothing is bound yet."""
        super().__init__(
            http_port=listening.port, enable_grpc=False, workers=1, enable_latency_logging=False, grace_period=GRACE_S
        )
        self._listening = listening
        self._health = ready
        self._grpc: GrpcServer | None = None
        if listening.grpc_port is not None:
            self._grpc = GrpcServer(
                f"{listening.host}:{listening.grpc_port}",
                data_plane=self.dataplane,
                repository=self.model_repository_extension,
            )

    async def _serve(self) -> None:
        self._rest_server.config.host = self._listening.host  # KServe binds every address and has no setting for it
        uvicorn_server, loop = self._rest_server._server, asyncio.get_running_loop()  # noqa: SLF001 - no public way
        leave = uvicorn_server.handle_exit

        def drain(number: int, frame: FrameType | None) -> None:
            waits = number == signal.SIGTERM and not self._health.is_ending
            self._health.is_ending = True
            if waits and self._listening.drain_s > 0:
                loop.call_soon_threadsafe(loop.call_later, self._listening.drain_s, leave, number, frame)
            else:
                leave(number, frame)

        uvicorn_server.handle_exit = drain
        if self._grpc is None:
            await super()._serve()
            return
        beside = asyncio.ensure_future(self._grpc.run())
        try:
            await super()._serve()
        finally:
            await self._grpc.stop(grace_s=GRACE_S)
            await beside


def serve(part: Part, listening: Listening, *, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; what is in flight then is answered first.

    Args:
        part: What answers.
        listening: Where.
        on_ready: Told the URL once connections are accepted and requests are wanted.

    Raises:
        UserError: the port is taken.
    """
    for port in (listening.port, listening.grpc_port):
        if port is not None:
            check_free(listening.host, port)
    _quieten()
    health.install(app, part.health)
    part.install(app)
    threading.Thread(target=_announce, args=(listening, part.health, on_ready), daemon=True).start()
    garbage.settle()
    try:
        Server(listening, part.health).start(part.models())
    finally:
        part.close()


def _announce(listening: Listening, ready: Health, on_ready: Callable[[str], None]) -> None:
    """Wait until the port answers and requests are wanted; KServe has no hook for it."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection((listening.host, listening.port), timeout=1):
            if not ready.trouble():
                on_ready(f"http://{listening.host}:{listening.port}")
                return
        time.sleep(READY_POLL_S)


def _quieten() -> None:
    """Leave logging to our own set-up: theirs prints request lines, ours does not."""
    for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.error", "uvicorn.access"):
        theirs = logging.getLogger(name)
        theirs.handlers.clear()
        theirs.propagate = True
        theirs.setLevel(logging.WARNING)
    silent = logging.getLogger("uvicorn.access")
    silent.propagate = False
    silent.addHandler(logging.NullHandler())
    # KServe sets its logging up unless its logger already has a handler.
    logging.getLogger("kserve").addHandler(logging.NullHandler())
    logging.getLogger("kserve").addFilter(_without_trace)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it prints every request between services
    warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")  # KServe's choice, not ours


def _without_trace(record: logging.LogRecord) -> bool:
    """KServe logs a refused request with its stack trace and message, which may quote the request: keep the kind."""
    if record.exc_info and record.exc_info[0]:
        record.msg, record.args = f"refused: {record.exc_info[0].__name__}", None
        record.exc_info = None
    return True

"""Our routes on the KServe model server, which brings liveness, readiness, metrics and the V1 protocol.

KServe's module reads `sys.argv` and opens its own logging when it is imported, binds every address, and prints
requests with their paths; this module is where each of these is put right.
"""

import contextlib
import logging
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from serving.address import check_free
from serving.answer import Service
from serving.app import install
from serving.completion import completion
from serving.wire import MODEL_NAME, ChatRequest, Instances
from vilam3.errors import UserError

READY_POLL_S = 0.05
GRACE_S = 150  # longer than an answer may take


@contextlib.contextmanager
def _bare_argv() -> Iterator[None]:
    kept, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = kept


with _bare_argv():
    import kserve
    from kserve.model_server import app

log = logging.getLogger(__name__)


class ChatModel(kserve.Model):
    """KServe's V1 ``:predict`` of the same dialogue: ``{"instances": [{"question", "study"}]}``."""

    def __init__(self, service: Service) -> None:
        """Ready at once: everything is loaded before the server starts."""
        super().__init__(MODEL_NAME)
        self._service = service
        self.ready = True

    async def predict(
        self, payload: object, headers: Mapping[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Answer every instance, one after the other."""
        del response_headers
        tenant = self._service.tenants.of(headers or {})
        answers = []
        for request in _requests(payload):
            inquiry = await self._service.inquire(request, tenant=tenant)
            answers.append(completion(await self._service.begin(inquiry, tenant=tenant).answered(gone=_still_there)))
        return {"predictions": answers}


def _requests(payload: object) -> list[ChatRequest]:
    if not isinstance(payload, Mapping | bytes):
        raise UserError(f"{MODEL_NAME}: answers KServe's V1 protocol and /v1/chat/completions; use one of these")
    try:  # KServe passes a body on undecoded when its content type is not JSON
        if isinstance(payload, bytes):
            given = Instances.model_validate_json(payload)
        else:
            given = Instances.model_validate(payload)
        return [instance.as_chat() for instance in given.instances]
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


async def _still_there() -> bool:
    """KServe does not say whether the caller of a V1 request has left."""
    return False


class Server(kserve.ModelServer):
    """KServe's server on a chosen address."""

    def __init__(self, *, host: str, port: int) -> None:
        """Prepare to listen; nothing is bound yet."""
        super().__init__(
            http_port=port, enable_grpc=False, workers=1, enable_latency_logging=False, grace_period=GRACE_S
        )
        self._host = host

    async def _serve(self) -> None:
        self._rest_server.config.host = self._host  # KServe binds every address and has no setting for it
        await super()._serve()


def serve(service: Service, *, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; what is in flight then is answered first.

    Args:
        service: What answers.
        host: Address to bind.
        port: Port to bind.
        on_ready: Told the URL once connections are accepted.

    Raises:
        UserError: the port is taken.
    """
    check_free(host, port)
    _quieten()
    install(app, service)
    threading.Thread(target=_announce, args=(host, port, on_ready), daemon=True).start()
    try:
        Server(host=host, port=port).start([ChatModel(service)])
    finally:
        service.close()


def _announce(host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Wait until the port answers; KServe has no hook for it."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            on_ready(f"http://{host}:{port}")
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
    warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")  # KServe's choice, not ours


def _without_trace(record: logging.LogRecord) -> bool:
    """KServe logs a refused request with its stack trace and message, which may quote the request: keep the kind."""
    if record.exc_info and record.exc_info[0]:
        record.msg, record.args = f"refused: {record.exc_info[0].__name__}", None
        record.exc_info = None
    return True

"""KServe's V2 protocol over gRPC, on the address that the process listens on.

KServe's own gRPC server binds every address, answers 8 MiB at most, and logs refused requests with their message, which
may quote the request; the service itself is KServe's.
"""

import logging
from collections.abc import Mapping
from typing import Any, NoReturn

import grpc
from fastapi.exceptions import RequestValidationError
from grpc import aio
from grpc_interceptor import AsyncExceptionToStatusInterceptor

from serving.framework import InferenceServicer, InvalidInput, ModelNotFound, ModelNotReady, add_servicer
from vilam3.errors import VilaM3Error

MAX_MESSAGE_BYTES = 64 << 20
STATUS: Mapping[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
}

KSERVE: tuple[tuple[tuple[type[Exception], ...], grpc.StatusCode, str], ...] = (
    ((ModelNotFound,), grpc.StatusCode.NOT_FOUND, "no model of that name is served here"),
    ((ModelNotReady,), grpc.StatusCode.UNAVAILABLE, "the model is loading; try again"),
    (
        (InvalidInput, RequestValidationError),
        grpc.StatusCode.INVALID_ARGUMENT,
        "the request's tensors are not as the model's metadata says",
    ),
)

log = logging.getLogger(__name__)


class _Statuses(AsyncExceptionToStatusInterceptor):
    """Errors as gRPC's statuses, with the same sentence as over HTTP."""

    async def handle_exception(
        self,
        ex: Exception,
        request_or_iterator: Any,  # noqa: ANN401 - as the base class
        context: Any,  # noqa: ANN401 - likewise
        method_name: str,
    ) -> NoReturn:
        """End the call with a status."""
        del request_or_iterator
        if isinstance(ex, VilaM3Error):
            await context.abort(STATUS.get(ex.http_status, grpc.StatusCode.INTERNAL), str(ex))
        for kinds, status, sentence in KSERVE:
            if isinstance(ex, kinds):
                await context.abort(status, sentence)
        log.error("grpc call failed: %s in %s", type(ex).__name__, method_name)
        await context.abort(grpc.StatusCode.INTERNAL, "the server failed; its log says where; try again")
        raise AssertionError("an aborted call does not go on")


class GrpcServer:
    """Serves until it is stopped."""

    def __init__(self, address: str, *, data_plane: Any, repository: Any) -> None:  # noqa: ANN401 - KServe's
        """Prepare to listen on ``host:port``."""
        self._address = address
        self._servicer = InferenceServicer(data_plane, repository)
        self._server: Any = None

    async def run(self) -> None:
        """Listen, and answer until `stop`."""
        options = [(f"grpc.max_{way}_message_length", MAX_MESSAGE_BYTES) for way in ("send", "receive")]
        self._server = aio.server(interceptors=(_Statuses(),), options=options)
        add_servicer(self._servicer, self._server)
        self._server.add_insecure_port(self._address)
        await self._server.start()
        await self._server.wait_for_termination()

    async def stop(self, *, grace_s: float) -> None:
        """Take no more calls and end when those in flight are answered."""
        if self._server is not None:
            await self._server.stop(grace_s)

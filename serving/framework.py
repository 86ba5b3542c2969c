"""What we use of KServe. Its module reads `sys.argv` when it is imported, so it is imported here and nowhere else."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def _bare_argv() -> Iterator[None]:
    kept, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = kept


with _bare_argv():
    from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
    from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady
    from kserve.model_server import app
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
        add_GRPCInferenceServiceServicer_to_server as add_servicer,
    )
    from kserve.protocol.grpc.servicer import InferenceServicer

__all__ = [
    "InferOutput",
    "InferRequest",
    "InferResponse",
    "InferenceServicer",
    "InvalidInput",
    "Model",
    "ModelNotFound",
    "ModelNotReady",
    "ModelServer",
    "add_servicer",
    "app",
]

"""The KServe models of each role: V1 and V2 of the same work that our own routes do."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from serving import framework
from serving.answer import Service
from serving.completion import completion
from serving.expert import ExpertService
from serving.presence import gone
from serving.watched import Consultations
from serving.wire import MODEL_NAME, ChatRequest, Instances
from vilam3.errors import DataError, UserError
from vilam3.services.engine import MODEL
from vilam3.services.findings import Consultation

BodyT = TypeVar("BodyT", bound=BaseModel)
V2_FIELDS = ("study", "study_digest", "argument", "modality", "dialect")
V2_INPUTS = (*((name, "BYTES") for name in V2_FIELDS), ("slice_index", "INT64"), ("points", "BYTES"))


class Model(framework.Model):
    """Ready at once: everything is loaded before the server starts."""

    def __init__(self, name: str) -> None:
        """Give it the name that clients use."""
        super().__init__(name)
        self.ready = True


class ChatModel(Model):
    """V1 ``:predict`` of a dialogue: ``{"instances": [{"question", "study"}]}``."""

    def __init__(self, service: Service) -> None:
        """Answer by `service`."""
        super().__init__(MODEL_NAME)
        self._service = service

    async def predict(
        self, payload: object, headers: Mapping[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Answer every instance, one after the other."""
        del response_headers
        tenant = self._service.tenants.of(headers or {})
        answers = []
        for request in _questions(payload):
            inquiry = await self._service.inquire(request, tenant=tenant)
            answers.append(completion(await self._service.begin(inquiry, tenant=tenant).answered(gone=gone())))
        return {"predictions": answers}


class SilentModel(Model):
    """The language model's name for KServe's readiness; it is asked by chat completions only."""

    def __init__(self) -> None:
        """Bear the name of the service's model."""
        super().__init__(MODEL)

    async def predict(self, payload: object, *_: object, **__: object) -> dict[str, Any]:
        """Say where to ask."""
        del payload
        raise UserError(f"{MODEL}: answers POST /v1/chat/completions; send the question there")


class ExpertModel(Model):
    """V1 ``:predict`` and V2 ``/infer`` of one expert."""

    def __init__(self, service: ExpertService) -> None:
        """Answer by `service`."""
        super().__init__(service.model)
        self._service = service

    async def healthy(self) -> bool:
        """Whether it has warmed up."""
        return not self._service.lacking

    def get_input_types(self) -> list[dict[str, Any]]:
        """The tensors of a V2 request; all but ``study`` may be left out, ``points`` is a JSON list."""
        return [{"name": name, "datatype": kind, "shape": [1]} for name, kind in V2_INPUTS]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The tensor of a V2 response: the finding as JSON."""
        return [{"name": "finding", "datatype": "BYTES", "shape": [1]}]

    async def predict(
        self, payload: object, headers: Mapping[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> object:
        """Answer every instance, one after the other."""
        del response_headers
        self._service.tenants.of(headers or {})
        if isinstance(payload, framework.InferRequest):
            finding = await self._service.consult(_consultation(payload))
            return _response(self.name, payload.id, finding.model_dump_json())
        findings = [await self._service.consult(asked) for asked in _consultations(payload)]
        return {"predictions": [finding.model_dump(mode="json") for finding in findings]}


def _questions(payload: object) -> list[ChatRequest]:
    return [instance.as_chat() for instance in _read(Instances, payload, MODEL_NAME).instances]


def _consultations(payload: object) -> list[Consultation]:
    return _read(Consultations, payload, "expert").instances


def _read(kind: type[BodyT], payload: object, name: str) -> BodyT:
    """KServe passes a body on undecoded when its content type is not JSON."""
    if not isinstance(payload, Mapping | bytes):
        raise UserError(f"{name}: answers KServe's V1 protocol with JSON; send {{'instances': [...]}}")
    try:
        return kind.model_validate_json(payload) if isinstance(payload, bytes) else kind.model_validate(payload)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


def _consultation(request: Any) -> Consultation:  # noqa: ANN401 - KServe ships no types
    """The V2 request: one BYTES tensor for each text, an INT64 one for ``slice_index``."""
    given: dict[str, Any] = {}
    for tensor in request.inputs:
        values = tensor.as_numpy().reshape(-1).tolist()
        if tensor.name == "slice_index" and values:
            given["slice_index"] = int(values[0])
        elif tensor.name in {*V2_FIELDS, "points"} and values:
            text = values[0].decode() if isinstance(values[0], bytes) else str(values[0])
            given[tensor.name] = _points(text) if tensor.name == "points" else text
    try:
        return Consultation.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


def _points(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(
            f"points: not JSON ({error}); send a list of objects with xyz_mm, label and positive"
        ) from error


def _response(name: str, request_id: str | None, finding: str) -> object:
    output = framework.InferOutput(name="finding", shape=[1], datatype="BYTES", data=[finding])
    return framework.InferResponse(model_name=name, infer_outputs=[output], response_id=request_id or "")

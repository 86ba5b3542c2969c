"""The intake by HTTP and its OpenAPI document say the same."""

from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from pipelines.intake_app import application
from tests.unit.intake.installation import Starter
from tests.unit.pipelines.intake_service import HEADERS, service_at


def test_every_answer_is_one_that_the_document_describes(tmp_path: Path) -> None:
    """Requests within and beyond the schema of every operation: the status and the body are those of its OpenAPI."""
    document = schemathesis.openapi.from_asgi("/openapi.json", application(service_at(tmp_path, Starter())))
    found: list[Any] = list(document.get_all_operations())
    operations = [one.ok() for one in found]
    assert {operation.label for operation in operations} == {
        "POST /v1/retraining",
        "POST /v1/retraining/mlflow",
        "POST /v1/retraining/s3",
        "GET /healthz",
    }
    for operation in operations:
        _check(operation)


def _check(operation: Any) -> None:  # noqa: ANN401 - schemathesis has no public type
    @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def send(case: Any) -> None:  # noqa: ANN401 - likewise
        response = case.call(headers=HEADERS)
        assert response.status_code < 500, response.content
        case.validate_response(response, checks=[status_code_conformance, response_schema_conformance])

    send()

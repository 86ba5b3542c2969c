"""The interface, fuzzed from its own OpenAPI document: whatever is sent, no fault of ours, and an answer in time."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings

from serving import app as routes
from serving import health
from serving.answer import Budget, Service, Terms
from serving.health import Health
from serving.tenants import Tenants
from tests.unit.serving.fakes import RuleEngine, SlowExperts
from vilam3.consultant import Consultant

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
EXAMPLES = 15
LONGEST_S = 60.0
FIRST_FAULT = 500


def endpoint(folder: Path) -> tuple[FastAPI, Service]:
    """The endpoint of one process."""
    consultant = Consultant(engine=RuleEngine(), experts=SlowExperts(), model_digest="d" * 64)
    terms = Terms(budget=Budget(deadline_s=5.0))
    service = Service.create(consultant, tenants=Tenants(), work=folder, terms=terms)
    application = FastAPI()
    health.install(application, Health())
    routes.install(application, service)
    return application, service


def test_nothing_that_is_sent_is_our_fault(tmp_path: Path) -> None:
    """Every operation that the document names, with bodies, parameters and headers within and beyond its schema."""
    application, service = endpoint(tmp_path)
    document = schemathesis.openapi.from_asgi("/openapi.json", application)
    faults: list[str] = []
    found: list[Any] = list(document.get_all_operations())
    operations = [result.ok() for result in found]
    assert len(operations) > 10
    for operation in operations:
        fuzz(operation, faults)
    service.close()
    assert faults == []


def fuzz(operation: Any, faults: list[str]) -> None:  # noqa: ANN401 - schemathesis has no public type
    """Send cases of one operation; note what is our fault."""

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def send(case: Any) -> None:  # noqa: ANN401 - likewise
        response = case.call()
        if response.status_code >= FIRST_FAULT:
            faults.append(f"{operation.label}: {response.status_code} {response.content[:200]!r}")
        if response.elapsed > LONGEST_S:
            faults.append(f"{operation.label}: {response.elapsed:.0f} s")

    send()

"""The interface, fuzzed from its own OpenAPI document: whatever is sent, no fault of ours, and an answer in time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings

from serving import app as routes
from serving import health
from serving.answer import Budget, Service, Terms
from serving.health import Health
from serving.tenants import Tenants
from tests.unit.serving.fakes import RuleEngine, SlowExperts
from vilam3.consultant import Consultant

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
EXAMPLES = 25
LONGEST_S = 20.0


@pytest.fixture
def api(tmp_path: Path) -> Iterator[schemathesis.schemas.BaseSchema]:
    """The endpoint of one process as its document describes it."""
    consultant = Consultant(engine=RuleEngine(), experts=SlowExperts(), model_digest="d" * 64)
    terms = Terms(budget=Budget(deadline_s=5.0))
    service = Service.create(consultant, tenants=Tenants(), work=tmp_path, terms=terms)
    application = FastAPI()
    health.install(application, Health())
    routes.install(application, service)
    yield schemathesis.openapi.from_asgi("/openapi.json", application)
    service.close()


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,  # the same cases each time: a failure can be repeated
    suppress_health_check=list(HealthCheck),
)
def test_nothing_that_is_sent_is_our_fault(case: "schemathesis.Case[Any]") -> None:
    response = case.call()
    assert response.status_code < 500, response.content[:500]
    assert response.elapsed < LONGEST_S
    if response.status_code >= 400 and response.headers.get("content-type", [""])[0].startswith("application/json"):
        assert "error" in response.json()

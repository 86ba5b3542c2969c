"""Rules of the intake by HTTP: who may ask, what is answered, and that it is what its OpenAPI document says."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from mlflow.webhooks.delivery import _generate_hmac_signature

from pipelines.intake_app import Service, application
from tests.unit.intake.installation import PIPELINE, Starter, write_corpus
from tests.unit.pipelines.intake_service import HEADERS, SECRET, service_at
from vilam3.intake.rules import Rules
from vilam3.train.record import Checkpoint

OTHER = "another"


@pytest.fixture
def starter() -> Starter:
    return Starter()


@pytest.fixture
def client(tmp_path: Path, starter: Starter) -> TestClient:
    return TestClient(application(service_at(tmp_path, starter)), raise_server_exceptions=False)


def test_a_request_is_answered_with_its_run_and_its_estimate(client: TestClient, starter: Starter) -> None:
    first, second = (client.post("/v1/retraining", json={}, headers=HEADERS) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    told = first.json()
    assert (told["decision"], second.json()["decision"]) == ("started", "already")
    assert told["run"]["name"] == f"{PIPELINE}-{told['key']}"
    assert told["estimate"]["gpu_hours"] > 0
    assert len(starter.runs) == 1


def test_every_decision_has_its_status(tmp_path: Path, starter: Starter) -> None:
    client = TestClient(application(service_at(tmp_path, starter, rules=Rules(cool_down_s=3600))))
    assert client.post("/v1/retraining", json={"dry_run": True}, headers=HEADERS).status_code == 200
    assert starter.runs == []
    client.post("/v1/retraining", json={}, headers=HEADERS)
    assert client.post("/v1/retraining", json={"again": True}, headers=HEADERS).status_code == 409
    write_corpus(tmp_path / "corpus", digest="d2")
    held = client.post("/v1/retraining", json={}, headers=HEADERS)
    assert held.status_code == 202
    assert held.json()["held_until"]


@pytest.mark.parametrize("path", ["/v1/retraining", "/v1/retraining/s3"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer another-key-of-sixteen"}])
def test_without_a_key_nothing_is_asked(
    client: TestClient, starter: Starter, path: str, headers: dict[str, str]
) -> None:
    told = client.post(path, json={}, headers=headers)
    assert told.status_code == 401
    assert told.json()["error"]["type"] == "authentication_error"
    assert starter.runs == []


def test_a_caller_names_no_file_of_the_server(client: TestClient, starter: Starter) -> None:
    for place in ("/etc", "file:///etc", "http://169.254.169.254/latest"):
        told = client.post("/v1/retraining", json={"corpus": place}, headers=HEADERS)
        assert told.status_code == 400
        assert "must be in the object store" in told.json()["error"]["message"]
    assert starter.runs == []


def _delivered(client: TestClient, body: dict[str, Any], *, secret: str = SECRET) -> Any:  # noqa: ANN401 - of the client's library
    text, stamp = json.dumps(body), str(int(time.time()))
    signature = _generate_hmac_signature(secret, "delivery-1", stamp, text)
    headers = {
        "X-MLflow-Signature": signature,
        "X-MLflow-Timestamp": stamp,
        "X-MLflow-Delivery-Id": "delivery-1",
        "Content-Type": "application/json",
    }
    return client.post("/v1/retraining/mlflow", content=text, headers=headers)


MOVED = {"entity": "model_version_alias", "action": "created", "data": {"name": "vilam3", "alias": "base"}}


def test_a_wrong_signature_is_refused(client: TestClient, starter: Starter) -> None:
    assert _delivered(client, MOVED, secret=OTHER).status_code == 401
    assert client.post("/v1/retraining/mlflow", json=MOVED, headers=HEADERS).status_code == 401
    assert starter.runs == []


def test_without_a_secret_no_webhook_is_taken(tmp_path: Path, starter: Starter) -> None:
    service = service_at(tmp_path, starter)
    bare = Service(triggers=service.triggers, tenants=service.tenants)
    assert _delivered(TestClient(application(bare)), MOVED, secret="").status_code == 401


def test_a_base_that_moved_is_a_reason_to_retrain(
    tmp_path: Path, starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alias is looked up in a real tracking store."""
    from vilam3.tracking import connect  # noqa: PLC0415 - mlflow takes seconds to import

    monkeypatch.setenv("VILAM3_RUNS", str(tmp_path / "runs"))
    tracking = connect(experiment="vilam3", registered_model="vilam3", runs=tmp_path / "runs")
    client = TestClient(application(service_at(tmp_path, starter, base="models:/vilam3@champion")))
    moved = {**MOVED, "data": {"name": "vilam3", "alias": "champion"}}
    assert _delivered(client, moved).status_code == 404
    for number, before in ((1, None), (2, 1)):
        checkpoint = Checkpoint(name=f"m{number}", step=number, source=f"s3://data/m{number}", digest=f"w{number}")
        tracking.register(checkpoint)
        tracking.promote(number, expected_champion=before)
        told = [_delivered(client, moved).json()["answers"] for _ in range(2)]
        assert [one["decision"] for (one,) in told] == ["started", "already"]
        assert starter.events[-1].places.base_checkpoint == f"s3://data/m{number}"
    assert _delivered(client, MOVED).json() == {"answers": []}
    assert len(starter.runs) == 2


def test_a_notice_of_the_watched_manifest_asks_and_others_do_not(client: TestClient, starter: Starter) -> None:
    record = {"eventName": "s3:ObjectCreated:Put", "s3": {"bucket": {"name": "data"}, "object": {"key": "a/b.png"}}}
    told = client.post("/v1/retraining/s3", json={"Records": [record]}, headers=HEADERS)
    assert (told.status_code, told.json()) == (200, {"answers": []})
    assert client.post("/v1/retraining/s3", json={"TestEvent": 1}, headers=HEADERS).status_code == 400
    assert starter.runs == []


def test_a_server_that_fails_keeps_the_event(tmp_path: Path, starter: Starter) -> None:
    service = service_at(tmp_path, starter)
    client = TestClient(application(service))
    starter.fails_before = 1
    assert client.post("/v1/retraining", json={}, headers=HEADERS).status_code == 503
    assert [answer.decision for answer in service.triggers.intake.take_up()] == ["started"]


def test_it_says_that_it_lives(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"alive": True}

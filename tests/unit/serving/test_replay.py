"""A kept answer is asked for again: what is kept, of whom, and what difference is shown."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from serving import replay_cli
from serving.answer import Service
from serving.app import install
from serving.tenants import Tenants
from tests.unit.serving import fakes
from tests.unit.serving.calls import asked, data_url, refused, uploaded
from tests.unit.serving.fakes import RuleEngine, SlowExperts
from tests.unit.serving.live import live
from vilam3 import consultant
from vilam3.cli.main import main
from vilam3.consultant import Consultant


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    """The routes on a real port."""
    app = FastAPI()
    install(app, service)
    with live(app) as address:
        yield address


def test_what_is_needed_to_ask_again_is_kept_by_reference(client: TestClient, png: bytes, tmp_path: Path) -> None:
    body = asked("the pancreas?", data_url(png), modality="CT", temperature=0.5, seed=7)
    answer = client.post("/v1/chat/completions", json=body).json()
    record = client.get(f"/v1/results/{answer['id']}/replay.json").json()
    (message,) = record["request"]["messages"]
    reference, text = message["content"]
    assert text["text"] == "the pancreas?"
    assert reference["image_url"]["url"].startswith("study://study-")
    assert (record["request"]["temperature"], record["request"]["seed"]) == (0.5, 7)
    assert record["replies"] == [fakes.TRIGGER.format(argument="pancreatic tumor"), "unknown"]
    assert answer["provenance"]["sampling"]["seed"] == 7
    kept = next(tmp_path.rglob("replay.json")).read_text()
    assert "base64" not in kept


def test_a_conversation_that_shows_its_picture_each_time_keeps_it_once(
    client: TestClient, png: bytes, tmp_path: Path
) -> None:
    body = asked("tumor?", data_url(png), modality="CT")
    first = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    body["messages"] += [first, {"role": "user", "content": "Are you sure?"}]
    answer = client.post("/v1/chat/completions", json=body).json()
    assert len(list(tmp_path.rglob("study.zip"))) == 1
    record = client.get(f"/v1/results/{answer['id']}/replay.json").json()
    assert "study://" in json.dumps(record["request"]["messages"][0])


def test_nothing_is_kept_of_an_answer_that_may_not_be(client: TestClient, png: bytes, tmp_path: Path) -> None:
    body = asked("tumor?", data_url(png), modality="CT", store=False)
    answer = client.post("/v1/chat/completions", json=body).json()
    assert answer["answer"] == "yes"
    refused(client.get(f"/v1/results/{answer['id']}"), 404)
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {"overlay-0.png"}


def test_a_record_belongs_to_its_tenant(client: TestClient, service: Service, volume: bytes) -> None:
    service.tenants = Tenants(["alpha-key-0123456789", "beta-key-0123456789"])
    alpha, beta = ({"authorization": f"Bearer {name}-key-0123456789"} for name in ("alpha", "beta"))
    study = uploaded(client, volume, **alpha)
    answer = client.post("/v1/chat/completions", json=asked("?", f"study://{study['id']}"), headers=alpha).json()
    for path in (f"/v1/results/{answer['id']}/replay.json", f"/v1/studies/{study['id']}/study.zip"):
        assert client.get(path, headers=alpha).status_code == 200
        refused(client.get(path, headers=beta), 404)


def test_the_same_model_gives_the_same_answer(
    client: TestClient, url: str, png: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = asked("tumor?", data_url(png), modality="CT")
    answer_id = client.post("/v1/chat/completions", json=body).json()["id"]
    assert main(["replay", answer_id, "--server", url, "--out", str(tmp_path / "told.json")]) == 0
    assert "replay: the same answer" in capsys.readouterr().out
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["same"] is True
    assert told["now"]["expert_calls"][0]["expert"] == "VISTA3D"


def test_another_model_is_shown_the_same_study_and_the_difference_is_told(
    client: TestClient, url: str, volume: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = uploaded(client, volume)
    body = asked("Is there a hepatic tumor?", f"study://{study['id']}", slice_index=4)
    answer_id = client.post("/v1/chat/completions", json=body).json()["id"]
    other = Consultant(engine=RuleEngine(name="other"), experts=None, model_digest="e" * 64)
    monkeypatch.setattr(consultant, "load", lambda *_, **__: other)
    assert main(["replay", answer_id, "--server", url, "--model", "elsewhere"]) == replay_cli.DIFFERS
    shown = capsys.readouterr().out
    assert "replay: another answer" in shown
    engine = other.engine
    assert isinstance(engine, RuleEngine)
    assert engine.seen[0][-1].images[0].size == (8, 9)
    rows = {line.split("│")[1].strip(): line for line in shown.splitlines() if line.startswith("│")}
    assert "differs" in rows["answer"]
    assert "VISTA3D(hepatic" in rows["expert 1"]
    assert "the same" in rows["study_digest"]


def test_an_answer_that_is_not_kept_cannot_be_asked_again(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "chatcmpl-" + "0" * 32, "--server", url]) == 2
    assert "answers are kept for a while only" in capsys.readouterr().err


def test_a_study_that_was_forgotten_cannot_be_shown_again(
    client: TestClient, url: str, volume: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    study = uploaded(client, volume)
    answer_id = client.post("/v1/chat/completions", json=asked("?", f"study://{study['id']}")).json()["id"]
    client.delete(f"/v1/studies/{study['id']}")
    assert main(["replay", answer_id, "--server", url]) == 2
    assert "upload it again" in capsys.readouterr().err


def test_a_finding_from_memory_is_the_same_finding(
    client: TestClient, experts: SlowExperts, url: str, png: bytes
) -> None:
    answer_id = client.post("/v1/chat/completions", json=asked("tumor?", data_url(png), modality="CT")).json()["id"]
    assert main(["replay", answer_id, "--server", url]) == 0
    assert len(experts.calls) == 1

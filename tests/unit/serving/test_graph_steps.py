"""The steps of an inference graph, called one after the other as its router does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from serving import expert, graph, vlm
from serving.studies import StudyStore
from serving.tenants import Tenants
from tests.unit.serving.calls import asked, data_url, refused
from tests.unit.serving.fakes import RuleEngine, SlowExperts
from vilam3.data.study import Study, study_of
from vilam3.experts.facts import ARGUMENTS
from vilam3.experts.roster import published
from vilam3.objects import FolderStore
from vilam3.shelf import Shelf

KEYS = ("alpha-key-0123456789", "beta-key-0123456789")
WORKED = "/v1/graph?rounds=2"


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(FolderStore(tmp_path / "store"))


def model_client(shelf: Shelf, *, keys: tuple[str, ...] = ()) -> TestClient:
    app = FastAPI()
    service = vlm.ModelService(engine=RuleEngine(), digest="d" * 64, dialect="demo", tenants=Tenants(keys))
    roster = graph.OnPaper([known for name in ARGUMENTS if (known := published(name))])
    vlm.install(app, service)
    graph.install(app, graph.ModelStep(service=service, studies=StudyStore(shelf), roster=lambda: roster))
    return TestClient(app, raise_server_exceptions=False)


def expert_client(shelf: Shelf, *, name: str = "VISTA3D", keys: tuple[str, ...] = ()) -> TestClient:
    app = FastAPI()
    tenants = Tenants(keys)
    service = expert.ExpertService(name=name, opened=lambda _: SlowExperts(), shelf=shelf, tenants=tenants)
    expert.install(app, service)
    graph.install(app, graph.ExpertStep(service=service))
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def model(shelf: Shelf) -> Iterator[TestClient]:
    with model_client(shelf) as made:
        yield made


@pytest.fixture
def vista(shelf: Shelf) -> Iterator[TestClient]:
    with expert_client(shelf) as made:
        yield made


def picture() -> Study:
    return study_of(modality="CT", radiograph_HW=np.zeros((32, 32), np.uint8))


def step(client: TestClient, state: dict[str, Any], **headers: str) -> dict[str, Any]:
    response = client.post(WORKED, json=state, headers=headers)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_a_state_goes_to_the_expert_and_back_to_an_answer(model: TestClient, vista: TestClient, png: bytes) -> None:
    state = step(model, asked("Is there a hepatic tumor?", data_url(png), modality="CT"))
    assert (state["expert"], state["calls"], state["rounds_left"], state["answer"]) == (
        "VISTA3D",
        [{"expert": "VISTA3D", "argument": "hepatic tumor"}],
        1,
        None,
    )
    state = step(vista, state)
    assert (state["expert"], state["calls"], len(state["expert_calls"])) == (None, [], 1)
    answer = step(model, state)
    assert (answer["object"], answer["answer"], answer["notes"]) == ("chat.completion", "yes", [])
    assert answer["id"] == state["answer_id"]
    assert answer["usage"]["total_tokens"] > 0
    assert answer["expert_calls"][0]["overlay_url"].startswith("data:image/png;base64,")
    assert step(model, answer) == answer  # what is finished passes


def test_a_step_that_is_not_concerned_leaves_the_state_alone(model: TestClient, shelf: Shelf, png: bytes) -> None:
    state = step(model, asked("Is there a hepatic tumor?", data_url(png), modality="CT"))
    with expert_client(shelf, name="BRATS") as brats:
        assert step(brats, state) == state
    assert model.post("/v1/graph/pass", json=state).json() == state


def test_an_expert_that_fails_says_so_within_the_conversation(model: TestClient, vista: TestClient, png: bytes) -> None:
    state = step(vista, step(model, asked("the pancreas?", data_url(png), modality="CT")))
    assert "outside the field of view" in state["expert_calls"][0]["error"]
    answer = step(model, state)
    assert answer["answer"] == "unknown"
    assert "outside the field of view" in answer["notes"][0]


def test_rounds_are_bounded_by_the_graph_and_by_the_request(model: TestClient, vista: TestClient, png: bytes) -> None:
    for most, rounds in ((4, 2), (1, 1)):
        state = asked("forever", data_url(png), modality="CT", max_rounds=most)
        for _ in range(rounds):
            state = step(vista, step(model, state))
        answer = step(model, state)
        assert f"The limit of {rounds} expert rounds was reached" in answer["notes"][0]
        assert answer["choices"][0]["finish_reason"] == "length"


def test_a_call_of_no_expert_at_all_is_answered_at_once(
    model: TestClient, monkeypatch: pytest.MonkeyPatch, png: bytes
) -> None:
    replies = iter(["Let me trigger <NOBODY(x)>.", "yes"])
    monkeypatch.setattr(RuleEngine, "reply", lambda *_: next(replies))
    answer = step(model, asked("?", data_url(png), modality="CT"))
    assert (answer["answer"], answer["expert_calls"][0]["expert"]) == ("yes", "?")


def test_a_study_may_be_named_beside_the_messages(model: TestClient, shelf: Shelf) -> None:
    kept = shelf.put("ward", picture())
    state = step(model, {**asked("hello"), "study": kept.reference})
    assert (state["looked_at"]["reference"], state["looked_at"]["digest"]) == (kept.reference, kept.digest)
    refused(model.post(WORKED, json={**asked("hello"), "study": "tenants/x"}), 404, "study")


def test_with_keys_a_tenant_names_its_own_studies_only(shelf: Shelf) -> None:
    first, second = ({"Authorization": f"Bearer {key}"} for key in KEYS)
    tenant = Tenants(KEYS).of({"authorization": first["Authorization"]})
    kept = shelf.put(tenant, picture())
    body = {**asked("hello"), "study": kept.reference}
    with model_client(shelf, keys=KEYS) as model, expert_client(shelf, keys=KEYS) as vista:
        assert model.post(WORKED, json=body).status_code == 401
        assert model.post(WORKED, json=body, headers=first).status_code == 200
        refused(model.post(WORKED, json=body, headers=second), 404, "there is none of that id")
        looked_at = {"reference": kept.reference, "digest": kept.digest, "modality": "CT"}
        calls = {"calls": [{"expert": "VISTA3D"}], "expert": "VISTA3D", "said": [{"reply": "x"}]}
        state = {**asked("hello"), "looked_at": looked_at, **calls}
        assert vista.post(WORKED, json=state, headers=first).status_code == 200
        refused(vista.post(WORKED, json=state, headers=second), 404, "there is none of that id")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "messages"),
        (json.dumps({**asked("hello"), "stream": True}).encode(), "ask the orchestrator"),
        (json.dumps({**asked("hello"), "said": [{"reply": "no"}, {"reply": "no"}]}).encode(), "does not follow"),
        (json.dumps({**asked("hello"), "expertt": "x"}).encode(), "expertt"),
    ],
)
def test_what_is_no_state_is_refused(model: TestClient, body: bytes, word: str) -> None:
    refused(model.post(WORKED, content=body), 400, word)

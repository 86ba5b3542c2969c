"""The routes, from the caller's side."""

import gzip
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from serving.answer import Budget, Service
from serving.lanes import Lane
from serving.tenants import Tenants
from tests.unit.serving.calls import Reply, asked, data_url, refused, streamed, uploaded
from tests.unit.serving.fakes import CARDS, RuleEngine, SlowExperts


def test_an_uploaded_study_is_answered_with_its_expert(client: TestClient, volume: bytes) -> None:
    study = uploaded(client, volume)
    assert (study["modality"], study["num_slices"]) == ("CT", 6)
    body = client.post("/v1/chat/completions", json=asked("Is there a hepatic tumor?", f"study://{study['id']}")).json()
    message = body["choices"][0]["message"]
    assert message["content"] == "yes"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["notice"] == "Draft for a clinician; research use only"
    assert body["provenance"]["model_digest"] == "d" * 64
    assert (body["provenance"]["rounds"], body["provenance"]["slice_index"]) == (2, 3)
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"] > 2
    (call,) = message["expert_calls"]
    assert (call["expert"], call["argument"], call["round"], call["error"]) == ("VISTA3D", "hepatic tumor", 0, None)
    assert call["measurements"] == [{"label": "hepatic tumor", "quantity": "volume", "value": 1.5, "unit": "ml"}]
    assert call["provenance"]["study_digest"] == body["provenance"]["study_digest"]
    overlay = client.get(call["overlay_url"])
    assert Image.open(io.BytesIO(overlay.content)).size == (32, 32)
    kept = client.get(f"/v1/results/{body['id']}").json()
    assert kept == body


def test_a_mask_comes_back_on_the_grid_of_the_upload(client: TestClient, volume: bytes) -> None:
    study = uploaded(client, volume)
    body = client.post("/v1/chat/completions", json=asked(f"tumor in study://{study['id']} ?")).json()
    content = client.get(body["choices"][0]["message"]["expert_calls"][0]["mask_url"]).content
    mask = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    assert np.allclose(mask.affine, np.diag([-2.0, 2.0, 3.0, 1.0]))
    assert mask.shape == (8, 9, 6)
    assert np.argwhere(np.asarray(mask.dataobj))[:, 0].tolist() == [5] * 4 + [6] * 4  # 1 and 2 from the other side


def test_experts_false_asks_the_model_alone(client: TestClient, engine: RuleEngine, png: bytes) -> None:
    body = client.post("/v1/chat/completions", json=asked("tumor?", data_url(png), experts=False)).json()
    assert body["choices"][0]["message"]["content"] == "no"
    assert body["choices"][0]["message"]["expert_calls"] == []
    assert CARDS not in engine.seen[0][0].text


def test_a_failed_expert_is_told_to_model_and_reader(client: TestClient, engine: RuleEngine, png: bytes) -> None:
    body = client.post("/v1/chat/completions", json=asked("the pancreas?", data_url(png), modality="CT")).json()
    message = body["choices"][0]["message"]
    assert "the pancreas is outside the field of view" in message["expert_calls"][0]["error"]
    assert "could not be used" in engine.seen[1][-1].text
    assert message["content"].startswith("unknown\n\n[")
    assert "outside the field of view" in message["content"]


def test_what_an_expert_raises_unforeseen_reaches_neither_reader_nor_log(
    client: TestClient, png: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    body = client.post("/v1/chat/completions", json=asked("everything", data_url(png)))
    assert body.status_code == 200
    assert "it failed unexpectedly (RuntimeError)" in body.text
    assert "Planted" not in body.text + caplog.text


def test_a_model_that_never_stops_calling_is_stopped(
    client: TestClient, service: Service, experts: SlowExperts, png: bytes
) -> None:
    service.memory = None
    body = client.post("/v1/chat/completions", json=asked("forever", data_url(png), max_rounds=2)).json()
    assert len(experts.calls) == 2
    assert body["choices"][0]["finish_reason"] == "length"
    assert "limit of 2 expert rounds" in body["choices"][0]["message"]["content"]


def test_the_deadline_gives_what_there_is_and_says_so(
    client: TestClient, service: Service, experts: SlowExperts, png: bytes
) -> None:
    service.budget, experts.seconds = Budget(deadline_s=0.3), 1.0
    body = client.post("/v1/chat/completions", json=asked("tumor?", data_url(png))).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert "time limit of 0.3 s" in body["choices"][0]["message"]["content"]
    assert "did not finish in the time allowed" in body["expert_calls"][0]["error"]
    assert body["provenance"]["ending"] == "deadline"


@pytest.mark.parametrize("question", ["tumor?", "the pancreas?", "essay"])
def test_a_stream_joins_to_the_unstreamed_content(client: TestClient, png: bytes, question: str) -> None:
    body = asked(question, data_url(png))
    whole = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    chunks = streamed(client, body)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "stop"


def test_a_stream_tells_of_experts_as_typed_events(client: TestClient, png: bytes) -> None:
    chunks = streamed(client, asked("tumor?", data_url(png), stream_options={"include_usage": True}))
    names = [chunk["vilam3"]["event"] for chunk in chunks if "vilam3" in chunk]
    assert [name for name in names if name != "reply.piece"] == [
        "reply.finished", "expert.started", "expert.finished", "reply.finished", "answer",
    ]  # fmt: skip
    finished = next(chunk["vilam3"] for chunk in chunks if chunk.get("vilam3", {}).get("event") == "expert.finished")
    assert client.get(finished["overlay_url"]).status_code == 200
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_a_follow_up_keeps_the_study_for_experts(
    client: TestClient, service: Service, engine: RuleEngine, experts: SlowExperts, volume: bytes
) -> None:
    service.memory = None
    study = uploaded(client, volume)
    body = asked("Is there a tumor?", f"study://{study['id']}")
    answer = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    body["messages"] += [answer, {"role": "user", "content": "ask forever"}]
    client.post("/v1/chat/completions", json={**body, "max_rounds": 1})
    assert [call.argument for call in experts.calls] == ["hepatic tumor", "hepatic tumor"]
    first, second, third = engine.seen[2]
    assert (len(first.images), second.text, third.text) == (1, "yes", "ask forever")


def test_sampling_and_system_text_reach_the_engine(client: TestClient, engine: RuleEngine) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    extras = {"temperature": 0.5, "top_p": 0.8, "max_tokens": 7, "seed": 3}
    assert client.post("/v1/chat/completions", json={"messages": messages, **extras}).status_code == 200
    used = engine.samplings[0]
    assert (used.temperature, used.top_p, used.max_new_tokens, used.seed) == (0.5, 0.8, 7, 3)
    assert used.system_prompt == "Be brief."


def test_slices_are_shown_as_the_model_sees_them(client: TestClient, volume: bytes) -> None:
    study = uploaded(client, volume)
    picture = client.get(f"/v1/studies/{study['id']}/slices/5.png")
    assert Image.open(io.BytesIO(picture.content)).size == (8, 9)
    refused(client.get(f"/v1/studies/{study['id']}/slices/6.png"), 400, "slice 6", "choose 0 to 5")
    refused(client.get(f"/v1/studies/{study['id']}/slices/0.png?view=1"), 400, "view 1")


def test_a_deleted_study_is_gone(client: TestClient, volume: bytes) -> None:
    study = uploaded(client, volume)
    assert client.delete(f"/v1/studies/{study['id']}").json()["deleted"] is True
    refused(client.get(f"/v1/studies/{study['id']}"), 404, "study")


def test_models_speaks_to_both_protocols(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    assert listed["data"][0]["id"] == "vilam3"
    assert listed["models"] == ["vilam3"]
    assert client.get("/v1/models/vilam3").json()["ready"] is True
    refused(client.get("/v1/models/other"), 404, "other")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"slice_idx": 3}, "slice_idx"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "the user's"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "content"),
        ({"n": 2}, "n:"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"stop": ["\n"]}, "stop"),
        ({"temperature": 3}, "temperature"),
        ({"max_rounds": 99}, "max_rounds"),
        ({"modality": "PET"}, "modality"),
        ({"slice_index": -1}, "slice_index"),
    ],
)
def test_a_request_out_of_range_is_named(client: TestClient, change: dict[str, Any], word: str) -> None:
    error = refused(client.post("/v1/chat/completions", json={**asked("hello"), **change}), 400, word)
    assert error["type"] == "invalid_request_error"


def test_bad_references_are_refused(client: TestClient, png: bytes) -> None:
    def ask(*urls: str, **extra: object) -> Reply:
        return client.post("/v1/chat/completions", json=asked("tumor?", *urls, **extra))

    refused(ask("ftp://example.org/a.png"), 400, "data URLs")
    refused(ask("https://example.org/a.png"), 400, "fetches nothing from example.org")
    refused(ask("file:///etc/passwd"), 400, "data URLs")
    refused(ask("data:image/png,abc"), 400, "base64")
    refused(ask("data:image/png;base64,####"), 400, "base64")
    refused(ask("study://study-unknown"), 404, "upload it again")
    refused(ask(data_url(png), data_url(png)), 400, "one at a time")
    refused(ask(data_url(png), slice_index=7), 400, "slice 7")
    refused(
        client.post("/v1/chat/completions", json=asked("<image> and <image>", data_url(png))), 400, "more than once"
    )
    refused(ask(data_url(png), model="gpt-4o"), 404, "gpt-4o")
    refused(client.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"}), 400)
    refused(client.post("/v1/studies", content=b"abc"), 400, "multipart")
    refused(client.post("/v1/studies", files={}, data={"modality": "CT"}), 400)
    refused(client.post("/v1/studies", files={"file": ("a.png", png)}, data={"modality": "PET"}), 400, "modality")
    refused(client.get("/v1/nothing"), 404)
    refused(client.get("/v1/results/chatcmpl-../overlays/0.png"), 404)


def test_tenants_do_not_see_each_other(client: TestClient, service: Service, volume: bytes) -> None:
    service.tenants = Tenants(["alpha-key-0123456789", "beta-key-0123456789"])
    alpha = {"authorization": "Bearer alpha-key-0123456789"}
    beta = {"authorization": "Bearer beta-key-0123456789"}
    study = uploaded(client, volume, **alpha)
    question = asked("tumor?", f"study://{study['id']}")
    overlay = client.post("/v1/chat/completions", json=question, headers=alpha).json()["expert_calls"][0]["overlay_url"]
    assert client.get(overlay, headers=alpha).status_code == 200
    for path in (f"/v1/studies/{study['id']}", f"/v1/studies/{study['id']}/slices/0.png", overlay):
        theirs = refused(client.get(path, headers=beta), 404)
        unknown = refused(client.get(path.replace(path.split("/")[3], "study-" + "0" * 32), headers=beta), 404)
        assert theirs == unknown
        refused(client.get(path), 401, "Authorization")
    refused(client.post("/v1/chat/completions", json=question, headers=beta), 404)
    refused(client.delete(f"/v1/studies/{study['id']}", headers=beta), 404)
    refused(client.get("/v1/models", headers={"authorization": "Bearer wrong"}), 401)


def test_bodies_are_bounded(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.guard.ANY_BODY_BYTES", 1000)
    refused(client.post("/v1/chat/completions", json=asked("a" * 2000)), 413, "upload images")

    def pieces() -> Iterator[bytes]:
        yield from [b"a" * 600] * 3

    headers = {"content-type": "application/json"}  # without a length, so that only counting helps
    refused(client.post("/v1/chat/completions", content=pieces(), headers=headers), 413)


def test_a_disk_that_cannot_be_written_costs_the_pictures_not_the_answer(
    client: TestClient, tmp_path: Path, png: bytes
) -> None:
    (tmp_path / "tenants").write_text("a file where a directory should be")
    body = client.post("/v1/chat/completions", json=asked("tumor?", data_url(png))).json()
    assert body["answer"] == "yes"
    assert "could not be stored" in body["notes"][0]
    assert body["expert_calls"][0]["overlay_url"] is None


def test_beyond_the_queue_callers_are_told_when_to_come_back(client: TestClient, service: Service) -> None:
    service.dialogues, release = Lane("answers", workers=1, waiting=0), threading.Event()
    blocking = service.dialogues.submit(release.wait)
    response = client.post("/v1/chat/completions", json=asked("hello"))
    error = refused(response, 429, "try again later")
    assert (error["type"], int(response.headers["retry-after"]) >= 1) == ("rate_limit_error", True)
    release.set()
    blocking.result(5)
    assert client.post("/v1/chat/completions", json=asked("hello")).status_code == 200


def test_the_interface_describes_itself(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/studies", "/v1/results/{answer_id}/masks/{number}.nii.gz"} <= set(paths)


def test_a_fault_of_ours_shows_no_trace(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("PatientName=Doe^Planted")

    monkeypatch.setattr(service.studies, "info", broken)
    error = refused(client.get("/v1/studies/x"), 500)
    assert error["type"] == "server_error"
    assert "Planted" not in json.dumps(error) + caplog.text
    assert "ZeroDivisionError" in str([vars(record) for record in caplog.records])

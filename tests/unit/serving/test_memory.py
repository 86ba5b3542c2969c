"""What experts have found is given again: to the same question, about the same images, of the same tenant and model."""

import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fastapi.testclient import TestClient

from serving import metrics
from serving.answer import Service
from serving.tenants import Tenants
from tests.unit.serving import fakes
from tests.unit.serving.calls import asked, data_url, uploaded
from tests.unit.serving.fakes import SlowExperts

ALPHA, BETA = ({"authorization": f"Bearer {name}-key-0123456789"} for name in ("alpha", "beta"))


def remembered() -> float:
    """How often the counter says that a call was answered from memory."""
    value: float = metrics.REMEMBERED.labels("VISTA3D")._value.get()
    return value


def test_the_same_question_is_not_computed_twice(client: TestClient, experts: SlowExperts, volume: bytes) -> None:
    question = asked("Is there a hepatic tumor?", f"study://{uploaded(client, volume)['id']}")
    before = remembered()
    first, second = (client.post("/v1/chat/completions", json=question).json() for _ in range(2))
    assert len(experts.calls) == 1
    assert [answer["expert_calls"][0]["cached"] for answer in (first, second)] == [False, True]
    assert remembered() == before + 1
    assert second["provenance"]["experts"] == [
        {"expert": "VISTA3D", "version": "1", "weights_digest": "0" * 64, "calls": 1, "cached": 1}
    ]
    assert second["expert_calls"][0]["provenance"] == first["expert_calls"][0]["provenance"]
    assert second["answer"] == first["answer"]
    masks = [client.get(answer["expert_calls"][0]["mask_url"]).content for answer in (first, second)]
    voxels = [np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(mask)).dataobj) for mask in masks]
    assert np.array_equal(voxels[0], voxels[1])
    assert voxels[0].any()
    assert client.get(second["expert_calls"][0]["overlay_url"]).content.startswith(b"\x89PNG")


def test_the_same_question_asked_by_two_at_a_time_is_computed_once(
    client: TestClient, experts: SlowExperts, volume: bytes
) -> None:
    experts.seconds = 1.0
    question = asked("Is there a hepatic tumor?", f"study://{uploaded(client, volume)['id']}")
    with ThreadPoolExecutor(2) as pool:
        answers = [told.json() for told in pool.map(lambda _: client.post("/v1/chat/completions", json=question), "12")]
    assert len(experts.calls) == 1
    assert sorted(answer["expert_calls"][0]["cached"] for answer in answers) == [False, True]
    masks = {client.get(answer["expert_calls"][0]["mask_url"]).content for answer in answers}
    assert len(masks) == 1


@pytest.mark.parametrize(
    "change",
    [{"slice_index": 1}, {"points": [{"xyz_mm": [1, 2, 3], "label": "liver"}]}, {"store": False}],
    ids=["another slice", "a point", "nothing may be kept"],
)
def test_another_question_is(
    client: TestClient, experts: SlowExperts, volume: bytes, change: dict[str, object]
) -> None:
    question = asked("Is there a hepatic tumor?", f"study://{uploaded(client, volume)['id']}")
    client.post("/v1/chat/completions", json=question)
    answer = client.post("/v1/chat/completions", json={**question, **change})
    assert answer.status_code == 200, answer.text
    assert len(experts.calls) == 2
    assert answer.json()["expert_calls"][0]["cached"] is False


def test_points_reach_the_expert(client: TestClient, experts: SlowExperts, volume: bytes) -> None:
    points = [{"xyz_mm": [1.0, 2.0, 3.0], "label": "liver", "positive": False}]
    body = asked("Is there a hepatic tumor?", f"study://{uploaded(client, volume)['id']}", points=points)
    client.post("/v1/chat/completions", json=body)
    (point,) = experts.points
    assert (point.xyz_mm, point.label, point.positive) == ((1.0, 2.0, 3.0), "liver", False)


def test_the_same_content_is_recognised_however_it_came(client: TestClient, experts: SlowExperts, png: bytes) -> None:
    question = asked("Is there a tumor?", data_url(png), modality="CT")
    answers = [client.post("/v1/chat/completions", json=question).json() for _ in range(2)]
    assert [answer["expert_calls"][0]["cached"] for answer in answers] == [False, True]
    assert len(experts.calls) == 1


def test_tenants_do_not_profit_from_each_other(
    client: TestClient, service: Service, experts: SlowExperts, volume: bytes
) -> None:
    """How fast an answer comes must not tell what another tenant has asked."""
    service.tenants = Tenants(["alpha-key-0123456789", "beta-key-0123456789"])
    for headers in (ALPHA, BETA):
        study = uploaded(client, volume, **headers)
        client.post("/v1/chat/completions", json=asked("tumor?", f"study://{study['id']}"), headers=headers)
    assert len(experts.calls) == 2


def test_another_model_is_asked_anew(
    client: TestClient, experts: SlowExperts, volume: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = asked("tumor?", f"study://{uploaded(client, volume)['id']}")
    client.post("/v1/chat/completions", json=question)
    monkeypatch.setitem(fakes.MODEL, "weights_digest", "1" * 64)
    for _ in range(2):
        client.post("/v1/chat/completions", json=question)
    assert len(experts.calls) == 2


def test_a_failure_is_not_remembered(client: TestClient, experts: SlowExperts, volume: bytes) -> None:
    question = asked("the pancreas?", f"study://{uploaded(client, volume)['id']}")
    for _ in range(2):
        client.post("/v1/chat/completions", json=question)
    assert len(experts.calls) == 2


def test_what_is_damaged_is_found_anew(client: TestClient, experts: SlowExperts, volume: bytes, tmp_path: Path) -> None:
    question = asked("tumor?", f"study://{uploaded(client, volume)['id']}")
    client.post("/v1/chat/completions", json=question)
    (kept,) = tmp_path.rglob("findings/*/*.json")
    kept.write_text("{")
    assert client.post("/v1/chat/completions", json=question).json()["answer"] == "yes"
    assert len(experts.calls) == 2


@pytest.mark.parametrize("modality", [None, "MRI"])
def test_who_forgets_a_study_forgets_what_was_found_in_it(
    client: TestClient, volume: bytes, tmp_path: Path, modality: str | None
) -> None:
    study = uploaded(client, volume)
    client.post("/v1/chat/completions", json=asked("tumor?", f"study://{study['id']}", modality=modality))
    assert len(list(tmp_path.rglob("findings/*/*"))) == 2
    client.delete(f"/v1/studies/{study['id']}")
    assert list(tmp_path.rglob("findings/*/*")) == []

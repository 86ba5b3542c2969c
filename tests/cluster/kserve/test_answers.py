"""Questions to real pods through both entries, and what a caller sees of a pod that is killed or replaced."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest

from tests.cluster.kserve.platform import Platform
from tests.cluster.kserve.trained import QUESTION, Trained, scan

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(7200)]
EXPERT = "vista3d"
LARGE = (224, 224, 160)  # voxels that take seconds


@pytest.fixture
def caller(platform: Platform) -> Iterator[httpx.Client]:
    with platform.client() as made:
        yield made


def _upload(caller: httpx.Client, platform: Platform, image: Path) -> dict[str, Any]:
    with image.open("rb") as file:
        response = caller.post(
            f"{platform.orchestrator}/v1/studies", files={"file": (image.name, file)}, data={"modality": "CT"}
        )
    assert response.is_success, response.text
    told: dict[str, Any] = response.json()
    return told


def _question(study: dict[str, Any], **extras: object) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": f"study://{study['id']}"}}
    content = [image, {"type": "text", "text": QUESTION}]
    return {"model": "vilam3", "messages": [{"role": "user", "content": content}], **extras}


def _events(caller: httpx.Client, platform: Platform, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Our typed events of a streamed answer, as they come; the last one is the answer."""
    with caller.stream("POST", f"{platform.orchestrator}/v1/chat/completions", json=body) as response:
        if response.is_error:
            response.read()
        assert response.is_success, response.text
        for line in response.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                assert "error" not in chunk, chunk
                if "vilam3" in chunk:
                    yield chunk["vilam3"]


def _found(answer: dict[str, Any]) -> dict[str, Any]:
    """What must be the same wherever the question was asked."""
    (call,) = answer["expert_calls"]
    kept = {name: call[name] for name in ("expert", "argument", "text", "colors", "measurements", "error")}
    weights = (call["provenance"]["weights_digest"], answer["provenance"]["model_digest"])
    return {"answer": answer["answer"], "notes": answer["notes"], "weights": weights, **kept}


def test_a_streamed_answer_of_the_orchestrator_has_the_experts_finding(
    platform: Platform, caller: httpx.Client, weights: Trained
) -> None:
    *earlier, answer = _events(caller, platform, _question(_upload(caller, platform, scan()), stream=True))
    assert {"expert.started", "expert.finished"} <= {event["event"] for event in earlier}
    assert _found(answer) == _found(weights.answer)
    overlay = caller.get(platform.orchestrator + answer["expert_calls"][0]["overlay_url"])
    assert overlay.content.startswith(b"\x89PNG")


def test_an_answer_through_the_graphs_router_has_the_experts_finding(
    platform: Platform, caller: httpx.Client, weights: Trained
) -> None:
    study = _upload(caller, platform, scan())
    response = caller.post(platform.graph, json=_question(study))
    assert response.status_code == httpx.codes.OK, response.text
    assert _found(response.json()) == _found(weights.answer)


def test_nobody_asks_without_a_key(platform: Platform) -> None:
    """Neither here nor there; the router passes on the service's refusal."""
    body = {"messages": [{"role": "user", "content": "hello"}]}
    for url in (f"{platform.orchestrator}/v1/chat/completions", platform.graph):
        assert httpx.post(url, json=body, trust_env=False, timeout=60).status_code == httpx.codes.UNAUTHORIZED


def test_an_expert_killed_while_it_computes_is_named_in_the_answer(
    platform: Platform, caller: httpx.Client, tmp_path: Path
) -> None:
    study = _upload(caller, platform, _large_scan(tmp_path / "large.nii.gz"))
    events = []
    for event in _events(caller, platform, _question(study, stream=True)):
        events.append(event)
        if event["event"] == "expert.started":
            (pod,) = platform.pods(EXPERT)
            platform.kubectl("delete", "pod", pod, "--force", "--grace-period=0", "--wait=false")
    answer = events[-1]
    (call,) = answer["expert_calls"]
    assert call["error"]
    assert any(EXPERT.upper() in note for note in answer["notes"]), answer["notes"]
    platform.await_ready()


def _large_scan(file: Path) -> Path:
    voxels = np.random.default_rng(0).normal(40.0, 20.0, LARGE).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 1.5, 1.0])), file)
    return file

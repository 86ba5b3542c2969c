"""Questions to real pods through both entries, and what a caller sees of a pod that is killed or replaced."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import pytest

from tests.cluster.kserve.platform import Platform
from tests.cluster.kserve.trained import Trained, scan
from tests.cluster.questions import events, found, question, upload

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(7200)]
EXPERT = "vista3d"
LARGE = (320, 320, 224)  # voxels; what is killed with the first of them done has most of them left


@pytest.fixture
def caller(platform: Platform) -> Iterator[httpx.Client]:
    with platform.client() as made:
        yield made


def test_a_streamed_answer_of_the_orchestrator_has_the_experts_finding(
    platform: Platform, caller: httpx.Client, weights: Trained
) -> None:
    *earlier, answer = events(
        caller, platform.orchestrator, question(upload(caller, platform.orchestrator, scan()), stream=True)
    )
    assert {"expert.started", "expert.finished"} <= {event["event"] for event in earlier}
    assert found(answer) == found(weights.answer)
    overlay = caller.get(platform.orchestrator + answer["expert_calls"][0]["overlay_url"])
    assert overlay.content.startswith(b"\x89PNG")


def test_an_answer_through_the_graphs_router_has_the_experts_finding(
    platform: Platform, caller: httpx.Client, weights: Trained
) -> None:
    study = upload(caller, platform.orchestrator, scan())
    response = caller.post(platform.graph, json=question(study))
    assert response.status_code == httpx.codes.OK, response.text
    assert found(response.json()) == found(weights.answer)


def test_nobody_asks_without_a_key(platform: Platform) -> None:
    """Neither here nor there; the router passes on the service's refusal."""
    body = {"messages": [{"role": "user", "content": "hello"}]}
    for url in (f"{platform.orchestrator}/v1/chat/completions", platform.graph):
        assert httpx.post(url, json=body, trust_env=False, timeout=60).status_code == httpx.codes.UNAUTHORIZED


def test_an_expert_killed_while_it_computes_is_named_in_the_answer(
    platform: Platform, caller: httpx.Client, tmp_path: Path
) -> None:
    study = upload(caller, platform.orchestrator, _large_scan(tmp_path / "large.nii.gz"))
    seen, is_whole = [], True
    for event in events(caller, platform.orchestrator, question(study, stream=True)):
        seen.append(event)
        if event["event"] == "expert.progress" and is_whole:
            is_whole = False
            (pod,) = platform.pods(EXPERT)
            platform.kubectl("delete", "pod", pod, "--force", "--grace-period=0", "--wait=false")
    answer = seen[-1]
    (call,) = answer["expert_calls"]
    assert call["error"]
    assert any(EXPERT.upper() in note for note in answer["notes"]), answer["notes"]
    platform.await_ready()


def _large_scan(file: Path) -> Path:
    voxels = np.random.default_rng(0).normal(40.0, 20.0, LARGE).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 1.5, 1.0])), file)
    return file

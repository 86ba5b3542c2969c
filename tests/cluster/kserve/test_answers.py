"""Questions to real pods through both entries, and what a caller sees of a pod that is killed or replaced."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import psutil
import pytest

from tests.cluster.kserve.platform import Platform
from tests.cluster.kserve.trained import Trained, scan
from tests.cluster.questions import events, found, question, upload

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(7200)]
EXPERT = "vista3d"
LARGE = (320, 320, 224)  # voxels that take seconds of a processor
AT_WORK_S = 0.3  # of a processor: more than a probe takes


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
    (pod,) = platform.pods(EXPERT)
    expert = _server_in(platform.kubectl("get", "pod", pod, "--output=jsonpath={.metadata.uid}"))
    seen = []
    for event in events(caller, platform.orchestrator, question(study, stream=True)):
        seen.append(event)
        if event["event"] == "expert.started":
            _kill_at_work(expert)
    answer = seen[-1]
    (call,) = answer["expert_calls"]
    assert call["error"]
    assert any(EXPERT.upper() in note for note in answer["notes"]), answer["notes"]
    platform.await_ready()


def _server_in(pod_uid: str) -> psutil.Process:
    """The process of ours in a pod, by its control group; the node's processes are this machine's."""
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            words = " ".join(process.info["cmdline"] or [])
            if "--role expert" in words and pod_uid in Path(f"/proc/{process.pid}/cgroup").read_text("utf-8"):
                return process
    raise AssertionError(f"no server in pod {pod_uid}")


def _kill_at_work(server: psutil.Process) -> None:
    """As the kernel kills what takes too much memory: at once, and in the middle of it."""
    end, idle_s = time.monotonic() + 60, sum(server.cpu_times()[:2])
    while sum(server.cpu_times()[:2]) < idle_s + AT_WORK_S:
        assert time.monotonic() < end, "it does nothing"
        time.sleep(0.01)
    server.kill()


def _large_scan(file: Path) -> Path:
    voxels = np.random.default_rng(0).normal(40.0, 20.0, LARGE).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 1.5, 1.0])), file)
    return file

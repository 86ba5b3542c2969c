"""A RayService of the chart answers the same question with the same finding as every other mode."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cluster import questions
from tests.cluster.kserve.trained import Trained, another, scan
from tests.cluster.ray.platform import HERE, SERVICE, ServingPlatform

SERVES = f"--selector=kubernetes.io/service-name={SERVICE}-serve-svc"
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module")
def platform(kubeconfig: Path, weights: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingPlatform]:
    """The chart in mode ray, installed; everything is ready."""
    made = ServingPlatform(kubeconfig=kubeconfig, values=HERE / "serving.yaml")
    with made.surrounded(weights, another=another(tmp_path_factory.mktemp("another") / "model")):
        made.apply()
        made.await_ready()
        yield made


def test_a_streamed_answer_has_the_experts_finding(platform: ServingPlatform, weights: Trained) -> None:
    with platform.client() as caller:
        study = questions.upload(caller, platform.orchestrator, scan())
        *earlier, answer = questions.events(caller, platform.orchestrator, questions.question(study, stream=True))
        overlay = caller.get(platform.orchestrator + answer["expert_calls"][0]["overlay_url"])
    assert {"expert.started", "expert.finished"} <= {event["event"] for event in earlier}
    assert questions.found(answer) == questions.found(weights.answer)
    assert overlay.content.startswith(b"\x89PNG")


def test_nobody_asks_without_a_key(platform: ServingPlatform) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    response = httpx.post(f"{platform.orchestrator}/v1/chat/completions", json=body, trust_env=False, timeout=60)
    assert response.status_code == httpx.codes.UNAUTHORIZED


def test_the_head_takes_no_requests(platform: ServingPlatform) -> None:
    """It holds the cluster together; a caller's study has nothing to do there."""
    addresses = platform.kubectl(
        "get", "endpointslices", SERVES, "-o", "jsonpath={.items[*].endpoints[*].targetRef.name}"
    )
    assert "-worker-" in addresses
    assert "-head" not in addresses

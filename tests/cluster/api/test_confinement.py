"""Every pod of the chart is admitted where Kubernetes' own restricted standard is enforced."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.chart import SCENARIOS, objects, of_kind, pods, render
from vilam3.errors import ClusterError

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
Kubectl = Callable[..., str]
OF_A_POD = ("containers", "initContainers", "volumes", "securityContext")


@pytest.fixture
def restricted(kubectl: Kubectl, namespace: str) -> str:
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    return namespace


def _specifications(rendered: str) -> Iterator[dict[str, Any]]:
    """Every pod: a served model's as KServe puts it together, a launched job's as its operator does."""
    serving = of_kind(rendered, "ServingRuntime")
    for one in objects(rendered):
        if one["kind"] == "InferenceService" and "model" in one["spec"]["predictor"]:
            predictor = one["spec"]["predictor"]
            yield {**predictor, "containers": serving[predictor["model"]["runtime"]]["spec"]["containers"]}
        elif one["kind"] == "ConfigMap" and "job.json" in one["data"]:
            training = of_kind(rendered, "TrainingRuntime").values()
            yield from _launched(
                json.loads(one["data"]["job.json"]), [pod for found in training for pod in pods(found)]
            )
        elif one["kind"] not in {"ServingRuntime", "TrainingRuntime"}:
            yield from pods(one)


def _launched(job: dict[str, Any], bases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of a job, or what it patches of its runtime's."""
    own = pods(job)
    if job["kind"] != "TrainJob":
        return own
    (base,), (patch,) = bases, own
    (container,), (changes,) = base["containers"], patch["containers"]
    return [{**base, **patch, "containers": [{**container, **changes}]}]


def _admit(kubectl: Kubectl, namespace: str, pod: dict[str, Any]) -> str:
    told = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "admitted-", "namespace": namespace},
        "spec": {name: pod[name] for name in OF_A_POD if name in pod},
    }
    return kubectl("create", "--dry-run=server", "--output=name", "--filename=-", stdin=json.dumps(told))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_restricted_standard_admits_every_pod(scenario: str, kubectl: Kubectl, restricted: str) -> None:
    found = list(_specifications(render(scenario)))
    assert found
    for pod in found:
        pod["containers"] = [{**one, "volumeMounts": []} for one in pod["containers"]]
        pod["initContainers"] = [{**one, "volumeMounts": []} for one in pod.get("initContainers", [])]
        pod["volumes"] = [one for one in pod.get("volumes", []) if one["name"] != "data"]
        if any(_may(one) for one in pod["containers"]):
            with pytest.raises(ClusterError, match=r": unrestricted capabilities \(.*IPC_LOCK[^)]*\)$"):
                _admit(kubectl, restricted, pod)
            for one in pod["containers"]:
                one["securityContext"]["capabilities"].pop("add", None)
        assert _admit(kubectl, restricted, pod).startswith("pod/admitted-")


def _may(container: dict[str, Any]) -> list[str]:
    """What it may beyond the standard: devices that reach into memory want it locked, and nothing else is asked for."""
    found: list[str] = container["securityContext"]["capabilities"].get("add", [])
    assert found in ([], ["IPC_LOCK"])
    return found


def test_the_standard_is_enforced(kubectl: Kubectl, restricted: str) -> None:
    pod = next(_specifications(render("one-gpu")))
    del pod["securityContext"]
    with pytest.raises(ClusterError, match="restricted"):
        _admit(kubectl, restricted, {**pod, "containers": [{**pod["containers"][0], "volumeMounts": []}]})

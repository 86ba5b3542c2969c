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


def _specifications(rendered: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod, a served model's as KServe puts it together from service and runtime."""
    runtimes = of_kind(rendered, "ServingRuntime")
    for one in objects(rendered):
        place = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "InferenceService" and "model" in one["spec"]["predictor"]:
            predictor = one["spec"]["predictor"]
            containers = runtimes[predictor["model"]["runtime"]]["spec"]["containers"]
            yield place, {**predictor, "containers": containers}
        elif one["kind"] != "ServingRuntime":
            yield from ((place, pod) for pod in pods(one))


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
    found = dict(_specifications(render(scenario)))
    assert found
    for pod in found.values():
        pod["containers"] = [{**one, "volumeMounts": []} for one in pod["containers"]]
        pod["initContainers"] = [{**one, "volumeMounts": []} for one in pod.get("initContainers", [])]
        pod["volumes"] = [one for one in pod.get("volumes", []) if one["name"] != "data"]
        assert _admit(kubectl, restricted, pod).startswith("pod/admitted-")


def test_the_standard_is_enforced(kubectl: Kubectl, restricted: str) -> None:
    pod = next(iter(dict(_specifications(render("one-gpu"))).values()))
    del pod["securityContext"]
    with pytest.raises(ClusterError, match="restricted"):
        _admit(kubectl, restricted, {**pod, "containers": [{**pod["containers"][0], "volumeMounts": []}]})

"""The level `full`: every operator is ready, and KServe brings a service and a graph of ours to answer."""

import json
from typing import Any

import httpx
import pytest

from infra.cluster import images, operators
from infra.cluster.plan import Level
from tests.cluster.cluster.conftest import Kubectl

LEVEL: Level = "full"
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(7200)]
WAIT = "--timeout=300s"
ANSWER = '{"predictions": [7]}'


def test_every_operator_runs(kubectl: Kubectl) -> None:
    told = json.loads(kubectl("get", "deployments", "--all-namespaces", "-o", "json"))["items"]
    ready = {item["metadata"]["name"] for item in told if item["status"].get("readyReplicas") == 1}
    containers = {name for operator in operators.OPERATORS for name in operator.programs}
    assert {"coredns", "kserve-controller-manager", *containers} <= ready


def test_a_wrong_service_is_refused_by_its_webhook(kubectl: Kubectl) -> None:
    service = _service("wrong")
    service["spec"]["predictor"] |= {"minReplicas": 3, "maxReplicas": 2}
    with pytest.raises(Exception, match="admission webhook"):
        kubectl("apply", "--filename=-", stdin=json.dumps(service))


def test_a_service_and_a_graph_answer(kubectl: Kubectl) -> None:
    kubectl("apply", "--filename=-", stdin=json.dumps(_service("seven")))
    kubectl("wait", "--for=condition=Ready", WAIT, "inferenceservice/seven")
    kubectl("apply", "--filename=-", stdin=json.dumps(_graph("asks", service="seven")))
    kubectl("wait", "--for=condition=Ready", WAIT, "inferencegraph/asks")
    kubectl("rollout", "status", "deployment/asks", WAIT)  # the graph is called ready before its router is
    address = kubectl("get", "service", "asks", "-o", "jsonpath={.spec.clusterIP}")
    answer = httpx.post(f"http://{address}", json={"instances": [1]}, trust_env=False, timeout=60)
    assert answer.json() == json.loads(ANSWER)


def test_the_metrics_of_pods_are_served(kubectl: Kubectl) -> None:
    kubectl("wait", "--for=condition=Available", WAIT, "apiservice/v1beta1.metrics.k8s.io")
    assert json.loads(kubectl("get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes"))["kind"] == "NodeMetricsList"


def test_a_node_of_kwok_runs_pods_that_are_none(kubectl: Kubectl) -> None:
    resources = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8"}
    fake = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "fake-0", "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
        "status": {"allocatable": resources, "capacity": resources},
    }
    kubectl("create", "--filename=-", stdin=json.dumps(fake))
    kubectl("wait", "--for=condition=Ready", WAIT, "node/fake-0")
    container = {"name": "c", "image": "none", "resources": {"limits": {"nvidia.com/gpu": "8"}}}
    tolerations = [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}]
    spec = {"containers": [container], "tolerations": tolerations}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "gang"}, "spec": spec}
    kubectl("create", "--filename=-", stdin=json.dumps(pod))
    kubectl("wait", "--for=condition=Ready", WAIT, "pod/gang")
    assert kubectl("get", "pod", "gang", "-o", "jsonpath={.spec.nodeName}") == "fake-0"


def _service(name: str) -> dict[str, Any]:
    """A model server that always gives the same answer, from a file and a shell."""
    reply = f"HTTP/1.0 200 OK\\r\\nContent-Type: application/json\\r\\n\\r\\n{ANSWER}"
    container = {
        "name": "kserve-container",
        "image": images.SHELL,
        "command": ["sh", "-c", f"while true; do printf '{reply}' | nc -l -p 8080; done"],
        "ports": [{"containerPort": 8080}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "readinessProbe": {"exec": {"command": ["ls"]}, "periodSeconds": 1},
    }
    spec = {"predictor": {"minReplicas": 1, "maxReplicas": 1, "containers": [container]}}
    return _custom("serving.kserve.io/v1beta1", "InferenceService", name, spec)


def _graph(name: str, *, service: str) -> dict[str, Any]:
    step = {"serviceName": service, "name": service}
    return _custom(
        "serving.kserve.io/v1alpha1",
        "InferenceGraph",
        name,
        {"nodes": {"root": {"routerType": "Sequence", "steps": [step]}}},
    )


def _custom(version: str, kind: str, name: str, spec: object) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}

"""Operators' own manifests are kept but for what a test cluster cannot give them."""

from typing import Any

from infra.cluster import images, operators, tools
from infra.cluster.plan import OPERATORS


def _deployment(*names: str) -> dict[str, Any]:
    probe = {"httpGet": {"path": "/readyz", "port": 8081}, "initialDelaySeconds": 30}
    limits = {"cpu": "100m", "memory": "300Mi"}
    containers = [
        {
            "name": name,
            "image": "far.example/x:1",
            "imagePullPolicy": "Always",
            "args": ["--own"],
            "readinessProbe": dict(probe),
            "resources": {"limits": dict(limits), "requests": dict(limits)},
        }
        for name in names
    ]
    pod = {"serviceAccountName": "x", "containers": containers}
    return {"kind": "Deployment", "metadata": {"name": "x"}, "spec": {"template": {"spec": pod}}}


def test_a_container_runs_our_build_without_pulling() -> None:
    deployment = _deployment("controller")
    operators.adapt(deployment, programs={"controller": "kwok"}, arguments=["--more"])
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"docker.io/vilam3/kwok:{tools.version('kwok')}" == images.name("kwok")
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert container["command"] == ["/kwok"]
    assert container["args"] == ["--own", "--more"]


def test_memory_stays_limited_and_the_processor_does_not() -> None:
    deployment = _deployment("controller")
    operators.adapt(deployment, programs={"controller": "kwok"})
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "300Mi"}


def test_a_container_that_nothing_is_built_for_is_left_out() -> None:
    deployment = _deployment("manager", "kube-rbac-proxy")
    operators.adapt(deployment, programs={"manager": "kserve-manager"})
    assert [container["name"] for container in deployment["spec"]["template"]["spec"]["containers"]] == ["manager"]


def test_accounts_move_with_their_operator_but_for_kube_systems() -> None:
    binding: dict[str, Any] = {
        "kind": "RoleBinding",
        "metadata": {"name": "x", "namespace": "default"},
        "subjects": [{"name": "a", "namespace": "default"}, {"name": "b", "namespace": "kube-system"}],
    }
    operators.move(binding, namespace="ray-system")
    assert binding["metadata"] == {"name": "x", "namespace": "ray-system"}
    assert [subject["namespace"] for subject in binding["subjects"]] == ["ray-system", "kube-system"]


def test_every_operators_module_is_the_one_that_its_programs_are_built_from() -> None:
    for operator in operators.OPERATORS:
        assert {tools.TOOLS[tool].family for tool in operator.programs.values()} == {operator.name}
        assert all(tools.TOOLS[tool].package.startswith(operator.module) for tool in operator.programs.values())


def test_every_operator_that_can_be_asked_for_is_installed_by_somebody() -> None:
    assert ("kserve", *(operator.name for operator in operators.OPERATORS)) == OPERATORS

"""The level `api` answers, knows the kinds, collects garbage, and leaves nothing however it ends."""

import json
import os
import signal
from pathlib import Path

import pytest

from infra.cluster import tools
from infra.cluster.cli import main
from infra.cluster.plan import Level
from tests.cluster.cluster.conftest import Kubectl
from tests.cluster.cluster.machine import processes, settings, traces

LEVEL: Level = "api"
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
KINDS = {
    "inferencegraphs.serving.kserve.io",
    "inferenceservices.serving.kserve.io",
    "rayclusters.ray.io",
    "rayjobs.ray.io",
    "rayservices.ray.io",
    "scaledobjects.keda.sh",
    "servingruntimes.serving.kserve.io",
    "trainingruntimes.trainer.kubeflow.org",
    "trainjobs.trainer.kubeflow.org",
}


def test_it_answers_as_the_version_that_is_pinned(kubectl: Kubectl) -> None:
    assert kubectl("get", "--raw", "/readyz") == "ok"
    assert json.loads(kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"] == tools.version(
        "kube-apiserver"
    )


def test_it_serves_the_kinds_of_the_operators(kubectl: Kubectl) -> None:
    served = set(kubectl("get", "crd", "-o", "name").split())
    assert {f"customresourcedefinition.apiextensions.k8s.io/{kind}" for kind in KINDS} <= served


def test_a_wrong_field_is_refused(kubectl: Kubectl) -> None:
    graph = {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "InferenceGraph",
        "metadata": {"name": "g"},
        "spec": {"nodes": {"root": {"routerType": "Roundabout"}}},
    }
    with pytest.raises(Exception, match="Roundabout"):
        kubectl("create", "--namespace=default", "--filename=-", stdin=json.dumps(graph))


def test_controllers_make_and_collect(kubectl: Kubectl) -> None:
    """A Deployment gets its ReplicaSet, and both go with their namespace."""
    kubectl("create", "namespace", "a")
    kubectl("create", "deployment", "web", "--image=none", "--namespace=a")
    kubectl("wait", "--for=create", "replicaset", "--selector=app=web", "--namespace=a", "--timeout=60s")
    kubectl("delete", "namespace", "a", "--wait", "--timeout=120s")
    assert kubectl("get", "replicasets", "--all-namespaces") == ""


def test_up_again_changes_nothing(root: Path) -> None:
    before = (root / "kubeconfig").read_bytes()
    assert main(["--root", str(root), "up", "--level", "api"]) == 0
    assert (root / "kubeconfig").read_bytes() == before


def test_a_higher_level_is_refused_with_the_remedy(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(root), "--provider", "local", "up", "--level", "node"]) == 2
    assert "level api is up; end it first: make cluster-down" in capsys.readouterr().err


def test_status_names_every_program(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(root), "status"]) == 0
    told = capsys.readouterr().out
    assert "level api" in told
    assert [line.split()[:2] for line in told.splitlines()[1:]] == [
        ["etcd", "running"],
        ["kube-apiserver", "running"],
        ["kube-controller-manager", "running"],
    ]


@pytest.mark.parametrize("killed", [False, True], ids=["asked", "killed"])
def test_down_leaves_nothing(tmp_path: Path, *, killed: bool) -> None:
    """Nor does it when the supervisor has been killed."""
    before, folder = settings(), tmp_path / "cluster"
    assert main(["--root", str(folder), "up", "--level", "api"]) == 0
    assert len(processes(folder)) >= 4
    if killed:
        os.kill(json.loads((folder / "state" / "supervisor.json").read_text())["pid"], signal.SIGKILL)
    assert main(["--root", str(folder), "down"]) == 0
    assert traces(folder, name="of-no-node") == []
    assert settings() == before
    assert {entry.name for entry in folder.iterdir()} <= {".lock", "logs", "provider"}
    assert main(["--root", str(folder), "status"]) == 1

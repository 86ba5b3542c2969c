"""The level `node` runs real pods: probes, services, names, volumes, exec, logs; and leaves nothing however it ends."""

import json
import os
import signal
from pathlib import Path

import httpx
import pytest
import yaml

from infra.cluster import images
from infra.cluster.cli import main
from infra.cluster.plan import Level, Plan
from infra.cluster.processes import Identity, descendants
from tests.cluster.cluster.conftest import Kubectl
from tests.cluster.cluster.machine import settings, traces

LEVEL: Level = "node"
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
WAIT = "--timeout=300s"
WORKLOADS = Path(__file__).parent / "workloads.yaml"


@pytest.fixture(scope="module")
def workloads(kubectl: Kubectl) -> None:
    """Two web servers behind a service, and one with a volume, all ready."""
    documents = list(yaml.safe_load_all(WORKLOADS.read_text().replace("IMAGE", images.SHELL)))
    kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(documents))
    kubectl("wait", "--for=condition=Available", WAIT, "deployment", "--all")
    kubectl("rollout", "status", "statefulset/kept", WAIT)


@pytest.mark.usefixtures("workloads")
def test_pods_get_ready_within_their_limits(kubectl: Kubectl, root: Path) -> None:
    pods = json.loads(kubectl("get", "pods", "--selector=app=web", "-o", "json"))["items"]
    assert len(pods) == 2
    assert all(status["ready"] for pod in pods for status in pod["status"]["containerStatuses"])
    group = f"/sys/fs/cgroup/memory/{Plan.read(root / 'state' / 'plan.json').addresses.name}"
    limits = [int(file.read_text()) for file in Path(group).rglob("memory.limit_in_bytes")]
    assert limits.count(64 << 20) >= 2


@pytest.mark.usefixtures("workloads")
def test_a_service_answers_this_machine(kubectl: Kubectl) -> None:
    address = kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    assert httpx.get(f"http://{address}/index.html", trust_env=False, timeout=30).text == "hello\n"


@pytest.mark.usefixtures("workloads")
def test_a_pod_reaches_a_service_by_its_name(kubectl: Kubectl) -> None:
    kubectl("wait", "--for=condition=Complete", WAIT, "job/asks")
    assert kubectl("logs", "job/asks").endswith("hello\n")


@pytest.mark.usefixtures("workloads")
def test_a_command_runs_in_a_pod(kubectl: Kubectl) -> None:
    assert kubectl("exec", "deployment/web", "--", "cat", "/www/index.html") == "hello\n"


@pytest.mark.usefixtures("workloads")
def test_a_volume_survives_its_pod(kubectl: Kubectl) -> None:
    kubectl("exec", "kept-0", "--", "sh", "-c", "echo written > /data/file")
    before = kubectl("get", "pod", "kept-0", "-o", "jsonpath={.metadata.uid}")
    kubectl("delete", "pod", "kept-0", "--now")
    kubectl("wait", "--for=condition=Ready", WAIT, "pod/kept-0")
    assert kubectl("get", "pod", "kept-0", "-o", "jsonpath={.metadata.uid}") != before
    assert kubectl("exec", "kept-0", "--", "cat", "/data/file") == "written\n"


def test_a_failing_probe_keeps_a_pod_out_of_its_service(kubectl: Kubectl) -> None:
    command = ["sh", "-c", "sleep 1000"]
    probe = {"exec": {"command": ["cat", "/absent"]}, "periodSeconds": 1}
    container = {"name": "c", "image": images.SHELL, "command": command, "readinessProbe": probe}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "unready"}, "spec": {"containers": [container]}}
    kubectl("apply", "--filename=-", stdin=json.dumps(pod))
    kubectl("wait", "--for=jsonpath={.status.phase}=Running", WAIT, "pod/unready")
    kubectl("wait", "--for=condition=Ready=false", WAIT, "pod/unready")
    assert "Readiness probe failed" in kubectl("get", "events", "--field-selector=involvedObject.name=unready")
    kubectl("delete", "pod", "unready", "--now")


def test_an_image_archive_can_be_loaded_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = images.shell(root / "state" / "config")
    assert main(["--root", str(root), "load-image", str(archive)]) == 0
    assert images.SHELL in capsys.readouterr().out


@pytest.mark.parametrize("killed", [False, True], ids=["asked", "killed"])
def test_down_leaves_nothing(tmp_path: Path, *, killed: bool) -> None:
    """No process, mount, network, rule, control group or setting; nor when the supervisor was killed."""
    before, folder = settings(), tmp_path / "cluster"
    assert main(["--root", str(folder), "--provider", "local", "up", "--level", "node"]) == 0
    name = Plan.read(folder / "state" / "plan.json").addresses.name
    outer = Identity(**json.loads((folder / "state" / "supervisor.json").read_text()))
    inner = [outer, *descendants(outer)]
    assert len(inner) > 10
    assert len(traces(folder, name=name)) > 10
    assert settings() == before
    if killed:
        os.kill(inner[1].pid, signal.SIGKILL)
    assert main(["--root", str(folder), "down"]) == 0
    assert [identity.pid for identity in inner if identity.process is not None] == []
    assert traces(folder, name=name) == []
    assert settings() == before

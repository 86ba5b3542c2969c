"""A TrainJob has the same facts of the installation as a RayJob, and with its runtime each of them once."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.chart import BUILD_TIMEOUT_S, of_kind, render
from vilam3.launch.job import Template
from vilam3.launch.trainjob import MANAGER, NODE

pytestmark = pytest.mark.timeout(BUILD_TIMEOUT_S)
CHANGES = {"training": {"graceSeconds": 420, "startingSeconds": 11, "stalledSeconds": 22, "unwatchedSeconds": 33}}
Made = Mapping[str, Any]


@pytest.fixture(scope="module")
def rendered() -> str:
    return render("trainer", changes=CHANGES)


@pytest.fixture(scope="module")
def job(rendered: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(of_kind(rendered, "ConfigMap")["vilam3-job"]["data"]["job.json"])
    return told


@pytest.fixture(scope="module")
def runtime(rendered: str) -> dict[str, Any]:
    (made,) = of_kind(rendered, "TrainingRuntime").values()
    found: dict[str, Any] = made
    return found


def _patched(job: Made) -> dict[str, Any]:
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert (patch["manager"], replicated["name"]) == (MANAGER, NODE)
    pod: dict[str, Any] = replicated["template"]["spec"]["template"]["spec"]
    return pod


def _base(runtime: Made) -> dict[str, Any]:
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    spec: dict[str, Any] = replicated["template"]["spec"]
    return spec


def test_it_is_a_template_with_the_times_of_the_installation(job: Made, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job), "utf-8")
    found = Template.read(file)
    assert (found.starting_s, found.stalled_s, found.unwatched_s, found.workers_per_pod) == (11, 22, 33, 8)
    assert found.back_end.kind.plural == "trainjobs"


def test_it_holds_nothing_of_a_run_and_waits_in_the_queue(job: Made) -> None:
    assert "name" not in job["metadata"]
    assert not {"command", "args", "numNodes", "numProcPerNode"} & set(job["spec"]["trainer"])
    assert "activeDeadlineSeconds" not in job["spec"]  # it would count the time in a queue
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "radiology"


def test_it_builds_on_the_runtime_beside_it(job: Made, runtime: Made) -> None:
    wanted = {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": runtime["metadata"]["name"]}
    assert job["spec"]["runtimeRef"] == wanted
    assert job["metadata"]["namespace"] == runtime["metadata"]["namespace"] == "kubeflow"
    assert runtime["spec"]["mlPolicy"]["torch"] == {}  # which brings torchrun's variables


def test_a_job_is_started_again_by_its_launcher_alone(runtime: Made) -> None:
    assert runtime["spec"]["template"]["spec"]["failurePolicy"] == {"maxRestarts": 0}
    assert _base(runtime)["backoffLimit"] == 0


def test_job_and_runtime_say_nothing_twice(job: Made, runtime: Made) -> None:
    """A patch replaces what it names, so that what is in both would be in one place for show."""
    base = _base(runtime)["template"]["spec"]
    assert set(base) & set(_patched(job)) == {"containers"}
    assert not set(base["containers"][0]) & {"env", "volumeMounts", "resources", "command", "securityContext"}
    assert base["priorityClassName"] == "vilam3-vilam3-training"


def test_a_pod_has_the_time_to_save_its_state_and_shared_memory(job: Made) -> None:
    pod = _patched(job)
    assert pod["terminationGracePeriodSeconds"] == 420
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Gi"}
    (container,) = pod["containers"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert mounts["shm"] == "/dev/shm"  # noqa: S108 - shared memory
    assert set(mounts) == set(volumes)


def test_a_pod_is_confined(job: Made, runtime: Made) -> None:
    pod = _patched(job)
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert _base(runtime)["template"]["spec"]["automountServiceAccountToken"] is False


def test_the_network_is_a_profile_and_secrets_are_references(job: Made) -> None:
    trainer = job["spec"]["trainer"]
    variables = {one["name"]: one for one in trainer["env"]}
    assert variables["NCCL_IB_HCA"] == {"name": "NCCL_IB_HCA", "value": "mlx5"}
    for kind in ("requests", "limits"):
        assert trainer["resourcesPerNode"][kind]["rdma/ib"] == "1"
        assert trainer["resourcesPerNode"][kind]["nvidia.com/gpu"] == "8"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert variables[name] == {"name": name, "valueFrom": {"secretKeyRef": {"name": "vilam3-s3", "key": name}}}
    (secret,) = _patched(job)["imagePullSecrets"]
    assert secret == {"name": "registry"}


def test_a_runtime_of_the_cluster_may_take_the_place_of_ours() -> None:
    made = render("trainer", changes={"training": {"runtime": "torch-distributed"}})
    assert not of_kind(made, "TrainingRuntime")
    told = json.loads(of_kind(made, "ConfigMap")["vilam3-job"]["data"]["job.json"])
    assert (told["spec"]["runtimeRef"]["kind"], told["spec"]["runtimeRef"]["name"]) == (
        "ClusterTrainingRuntime", "torch-distributed",
    )  # fmt: skip


def test_the_steps_may_make_trainjobs_and_no_more(rendered: str) -> None:
    assert of_kind(rendered, "Role")["vilam3-launcher"]["rules"] == [
        {"apiGroups": ["trainer.kubeflow.org"], "resources": ["trainjobs"], "verbs": ["create", "get", "delete"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
    ]


def test_the_check_before_an_installation_asks_for_trainer(rendered: str) -> None:
    (check,) = [one for name, one in of_kind(rendered, "Job").items() if name.endswith("preflight")]
    words = check["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "trainer" in [word for flag, word in itertools.pairwise(words) if flag == "--need"]

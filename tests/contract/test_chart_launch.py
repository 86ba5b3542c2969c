"""The template of launched jobs holds what an installation says, once, and nothing that is a run's."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from tests.chart import BUILD_TIMEOUT_S, CHART, ROOT, of_kind, pods, render
from vilam3.launch.job import Template
from vilam3.recipe import load
from vilam3.train.plan import ACCELERATORS, Assumptions, plan
from vilam3.train.preflight import LEAST_DISK, MEBIBYTE
from vilam3.train.shard_files import CACHE_VARIABLE

pytestmark = pytest.mark.timeout(BUILD_TIMEOUT_S)
RECIPES = ROOT / "pipelines" / "recipes"
NETWORK = {"env": {"NCCL_IB_HCA": "mlx5", "NCCL_IB_TIMEOUT": 22}, "resources": {"rdma/ib": 1}}


def _template(changes: Mapping[str, Any]) -> dict[str, Any]:
    made = of_kind(render("everything", changes={"training": dict(changes)}), "ConfigMap")["vilam3-job"]
    assert made["metadata"]["namespace"] == "kubeflow"
    told: dict[str, Any] = json.loads(made["data"]["job.json"])
    return told


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    changes = {"network": NETWORK, "shmSize": "48Gi", "graceSeconds": 420, "queue": "radiology"}
    return _template({**changes, "startingSeconds": 11, "stalledSeconds": 22, "unwatchedSeconds": 33})


def test_it_is_a_template_with_the_times_of_the_installation(told: Mapping[str, Any], tmp_path: Any) -> None:  # noqa: ANN401 - of pytest
    file = tmp_path / "job.json"
    file.write_text(json.dumps(told), "utf-8")
    found = Template.read(file)
    assert (found.starting_s, found.stalled_s, found.unwatched_s, found.workers_per_pod) == (11, 22, 33, 8)


def test_it_holds_nothing_of_a_run(told: Mapping[str, Any]) -> None:
    assert "name" not in told["metadata"]
    assert "entrypoint" not in told["spec"]
    assert told["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "radiology"


def test_a_job_is_started_again_by_its_launcher_alone_and_gives_its_machines_back(told: Mapping[str, Any]) -> None:
    spec = told["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["submissionMode"] == "HTTPMode"  # the definition itself would take any word
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] <= 60


def test_a_pod_has_the_time_to_save_its_state(told: Mapping[str, Any]) -> None:
    for pod in pods(told):
        assert pod["terminationGracePeriodSeconds"] == 420
        for container in pod["containers"]:
            assert container["lifecycle"]["preStop"]["sleep"]["seconds"] * 10 < 420


@pytest.mark.parametrize("recipe", ["vila-m3-3b", "vila-m3-8b", "vila-m3-13b"])
def test_the_grace_is_longer_than_the_slowest_disk_that_preflight_lets_pass(recipe: str) -> None:
    """A member writes its part of the state to disk, at the least speed that is accepted."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    plans = plan(load([RECIPES / f"{recipe}.toml"]), Assumptions(accelerator=ACCELERATORS["h100"]))
    (stage,) = [one for one in plans if one.name == "stage4_expert"]
    part_bytes = stage.resume_bytes / stage.devices
    assert values["training"]["graceSeconds"] > part_bytes / (LEAST_DISK * MEBIBYTE)


def test_shared_memory_is_sized_and_no_claim_is_mounted(told: Mapping[str, Any]) -> None:
    """A claim is of one namespace, and a job may run in another."""
    for pod in pods(told):
        volumes = {one["name"]: one for one in pod["volumes"]}
        assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "48Gi"}
        assert not [one for one in pod["volumes"] if "persistentVolumeClaim" in one]


def test_the_network_is_a_profile_of_the_installation(told: Mapping[str, Any]) -> None:
    """Devices and the right to lock memory go to workers alone."""
    cluster = told["spec"]["rayClusterSpec"]
    (worker,) = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"name": "NCCL_IB_TIMEOUT", "value": "22"} in worker["env"]
    assert worker["resources"]["limits"]["rdma/ib"] == worker["resources"]["requests"]["rdma/ib"] == "1"
    assert worker["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert "rdma/ib" not in head["resources"]["limits"]
    assert not [one for one in worker["env"] if one["name"] == CACHE_VARIABLE]
    cluster = _template({"shardCacheGib": 200})["spec"]["rayClusterSpec"]
    (plain,) = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    assert plain["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {"name": CACHE_VARIABLE, "value": "200"} in plain["env"]


def test_secrets_are_references(told: Mapping[str, Any]) -> None:
    for pod in pods(told):
        for container in pod["containers"]:
            for one in container["env"]:
                if "SECRET" in one["name"] or "KEY" in one["name"]:
                    assert one["valueFrom"]["secretKeyRef"]["name"] == "vilam3-s3"
                    assert "value" not in one


def test_the_steps_may_make_jobs_and_no_more() -> None:
    rendered = render("everything", changes={"pipelines": {"serviceAccount": "trainers"}})
    role = of_kind(rendered, "Role")["vilam3-launcher"]
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "delete"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
    ]
    (subject,) = of_kind(rendered, "RoleBinding")["vilam3-launcher"]["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "trainers", "namespace": role["metadata"]["namespace"]}


def test_where_steps_train_there_is_none_of_it() -> None:
    rendered = render("everything", changes={"pipelines": {"launcher": "here"}})
    assert "vilam3-job" not in of_kind(rendered, "ConfigMap")
    assert "vilam3-launcher" not in of_kind(rendered, "Role")

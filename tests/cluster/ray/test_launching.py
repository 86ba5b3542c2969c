"""`vilam3 launch` under the real KubeRay: a stage is trained by two pods, and a launcher that ends ends its job."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chart import KUBERAY, ROOT, SCENARIOS, of_kind, render
from tests.cluster.kserve.platform import NAMESPACE, POLL_S, READY_S, WEIGHTS
from tests.cluster.ray.platform import HERE, TrainingPlatform
from vilam3.train.record import parse_stage

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(7200)]
MICRO = ROOT / "tests" / "e2e" / "micro.toml"
STAGE = "stage1_align"
MANY_STEPS = "[stages.stage1_align]\nsteps = 100000\n"
# Launched jobs alone: no part of the release runs, and training writes its runs into a file of its pod.
CHANGES: dict[str, Any] = {
    "serving": {"graph": False},
    "experts": {name: {"enabled": False} for name in ("vista3d", "brats", "cxr")},
    "mlflow": {"enabled": False, "uri": "http://none.example.org"},
    "pipelines": {"enabled": True, "launcher": "rayjob", "namespace": NAMESPACE},
    "priorityClasses": False,
    "ray": {"head": {"cpu": "100m", "cpuLimit": "2", "memory": "3Gi"}, "objectStoreBytes": 200000000},
    "training": {
        "checkpoints": f"s3://{WEIGHTS}/launched",
        "graceSeconds": 60,
        "workers": {"min": 2, "max": 2, "gpus": 0, "cpu": "100m", "cpuLimit": "1", "memory": "2560Mi"},
    },
}


@dataclass(frozen=True, kw_only=True)
class Launching:
    """What a test launches with."""

    platform: TrainingPlatform
    template: Path
    folder: Path

    def start(self, run_id: str, *recipes: Path) -> "subprocess.Popen[bytes]":
        """Start a launcher; its log and result are in the folder."""
        words = [word for recipe in recipes for word in ("--recipe", str(recipe))]
        words += ["--stage", STAGE, "--corpus", f"s3://{WEIGHTS}/corpus", "--checkpoints", f"s3://{WEIGHTS}/launched"]
        words += ["--workers", "2", "--strategy", "zero2", "--run-id", run_id, "--template", str(self.template)]
        words += ["--namespace", NAMESPACE, "--runs", str(self.folder / "runs"), "--every-s", "1"]
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.platform.kubeconfig),
            "AWS_ENDPOINT_URL": f"http://{self.platform.address('s3')}:7070",
            "AWS_ACCESS_KEY_ID": "smoke",
            "AWS_SECRET_ACCESS_KEY": self.platform.store_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with (self.folder / "log").open("wb") as log, (self.folder / "out").open("wb") as out:
            command = [sys.executable, "-m", "vilam3", "launch", *words]
            return subprocess.Popen(command, stdout=out, stderr=log, env=environment, cwd=ROOT)  # noqa: S603 - our own program

    @property
    def log(self) -> str:
        """What the launcher has said."""
        return (self.folder / "log").read_text("utf-8")


@pytest.fixture(scope="module")
def launching(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launching]:
    """A namespace with a store and a corpus in it, and the chart's template."""
    platform = TrainingPlatform(kubeconfig=kubeconfig, values=HERE / "training.yaml")
    folder = tmp_path_factory.mktemp("launching")
    corpus = folder / "corpus"
    command = [sys.executable, "-m", "vilam3", "prepare", "--recipe", str(MICRO), "--out", str(corpus)]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own program
    made = render("cpu-smoke", apis=(*SCENARIOS["cpu-smoke"], *KUBERAY), changes=CHANGES)
    told = json.loads(of_kind(made, "ConfigMap")["vilam3-job"]["data"]["job.json"])
    cluster = told["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        container["env"] = [one for one in container["env"] if one["name"] != "MLFLOW_TRACKING_URI"]  # see CHANGES
    template = folder / "job.json"
    template.write_text(json.dumps(told), "utf-8")
    with platform.prepared({}, store={"corpus": corpus}):
        yield Launching(platform=platform, template=template, folder=folder)


def test_a_stage_is_trained_by_the_pods_of_a_job(launching: Launching) -> None:
    process = launching.start("run-1", MICRO)
    assert process.wait(READY_S) == 0, launching.log
    told = json.loads((launching.folder / "out").read_text("utf-8"))
    assert launching.platform.job()["jobStatus"] == "SUCCEEDED"
    key = told["out"].removeprefix(f"s3://{WEIGHTS}/")
    record = launching.platform.store.get_object(Bucket=WEIGHTS, Key=f"{key}/stage.json")["Body"].read()
    assert parse_stage(record, where=key).settings["workers"] == "2"
    assert launching.platform.store.head_object(Bucket=WEIGHTS, Key=f"{key}/lineage/{STAGE}/stage.json")
    again = launching.start("run-1", MICRO)
    assert again.wait(READY_S) == 0
    assert json.loads((launching.folder / "out").read_text("utf-8"))["weights_digest"] == told["weights_digest"]
    launching.platform.kubectl("delete", "rayjob", "--all", "--wait=true")


def test_a_launcher_that_is_asked_to_end_frees_the_machines(launching: Launching) -> None:
    more = launching.folder / "more.toml"
    more.write_text(MANY_STEPS, "utf-8")
    process = launching.start("run-2", MICRO, more)
    until = time.monotonic() + READY_S
    while "/100000" not in launching.log:
        assert process.poll() is None, launching.log
        assert time.monotonic() < until, launching.log
        time.sleep(POLL_S)
    process.send_signal(signal.SIGTERM)
    assert process.wait(READY_S) == 75, launching.log
    began = time.monotonic()
    while launching.platform.kubectl("get", "pods", "--selector=ray.io/cluster", "--output=name"):
        assert time.monotonic() - began < 300, "pods outlive their job"
        time.sleep(POLL_S)
    assert not launching.platform.kubectl("get", "rayjob", "--output=name")

"""`vilam3 launch` as a test handles it: the real program, with the rights of a pipeline's step, against real servers.

The test takes the part of the job's operator and of the kubelet: it writes the statuses that they would.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.chart import ROOT
from tests.cluster.api.conftest import PIPELINES, Kubectl
from tests.cluster.api.launching.operators import Operator
from tests.e2e.s3_server import S3
from vilam3.launch.job import NEWS
from vilam3.objects import open_store
from vilam3.train.news import News
from vilam3.train.record import StageResult

RECIPE = ROOT / "pipelines" / "recipes" / "tiny.toml"
STAGE = "stage1_align"
BUCKET = "training"
ACCOUNT = "pipeline-runner"  # as KFP names it
WORKER, NODE = "worker", "gpu-1"  # names of its pod and of the machine that it is on
SHORT_S = 8  # of the deadlines


def launches(launcher: str) -> dict[str, dict[str, Any]]:
    """Values of a chart whose stages are trained by such jobs."""
    return {
        "pipelines": {"enabled": True, "launcher": launcher},
        "mlflow": {"enabled": False, "uri": "https://mlflow.example.org"},
        "training": {"checkpoints": "s3://training/checkpoints"},
    }


PATIENCE_S = 120.0
POLL_S = 0.2
EVERY_S = 0.3
RESULT = StageResult(
    name=STAGE, recipe="tiny", steps=3, samples=6, seconds=1.0, final_loss=0.5, losses=(1.0, 0.7, 0.5),
    inputs={"recipe": "r"}, inputs_digest="i", weights_digest="w", settings={},
)  # fmt: skip


def until(what: Callable[[], Any], words: str) -> Any:  # noqa: ANN401 - whatever is awaited
    """Wait until it is there."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(POLL_S)
    raise AssertionError(words)


def disrupted(reason: str) -> dict[str, Any]:
    """Status of a pod that has to go; without a time it would be taken for stale and put right."""
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": at}]}


@dataclass(slots=True, kw_only=True)
class Launched:
    """A launcher that was started."""

    process: "subprocess.Popen[bytes]"
    log: Path
    out: Path

    def said(self, words: str) -> bool:
        """Whether its log has the words by now."""
        return words in self.log.read_text("utf-8")

    def await_words(self, words: str) -> None:
        """Wait until it says so, or fail as soon as it has ended without."""
        until(lambda: self.said(words) or self.process.poll() is not None, f"not said: {words}")
        assert self.said(words), self.log.read_text("utf-8")

    def code(self) -> int:
        """Its exit code, once it ends."""
        return self.process.wait(PATIENCE_S)

    def result(self) -> dict[str, Any]:
        """What it printed; it must have succeeded."""
        assert self.code() == 0, self.log.read_text("utf-8")
        return dict(json.loads(self.out.read_text("utf-8")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a test has at hand."""

    operator: Operator
    kubectl: Kubectl
    account: Path
    template: Path
    s3: S3
    folder: Path
    started: list[Launched] = field(default_factory=list)

    def start(
        self,
        run_id: str = "",
        *,
        pod: str = "",
        recipe: Path = RECIPE,
        stage: str = STAGE,
        options: Sequence[str] = (),
    ) -> Launched:
        """Start a launcher with the token of the steps' account."""
        number = len(self.started)
        log, out = self.folder / f"{number}.log", self.folder / f"{number}.json"
        words = ["launch", "--recipe", str(recipe), "--stage", stage, "--corpus", f"s3://{BUCKET}/corpus"]
        words += ["--checkpoints", f"s3://{BUCKET}/checkpoints", "--template", str(self.template)]
        words += ["--namespace", PIPELINES, "--runs", str(self.folder / "runs"), "--every-s", str(EVERY_S), *options]
        words += ["--run-id", run_id] if run_id else []
        environment = {**os.environ, **self.s3.environment(), "KUBECONFIG": str(self.account), "VILAM3_POD": pod}
        with log.open("wb") as errors, out.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "vilam3", *words], stdout=output, stderr=errors, env=environment, cwd=ROOT
            )
        self.started.append(Launched(process=process, log=log, out=out))
        return self.started[-1]

    def jobs(self) -> list[dict[str, Any]]:
        """All of them."""
        told = json.loads(self.kubectl("get", self.operator.plural, f"--namespace={PIPELINES}", "--output=json"))
        return list(told["items"])

    def job(self) -> dict[str, Any]:
        """The one job, once it is there."""
        until(self.jobs, "no job is made")
        (job,) = self.jobs()
        return job

    def set_status(self, status: Mapping[str, Any], *, kind: str = "", name: str = "") -> None:
        """As the operator or the kubelet would."""
        kind, name = kind or self.operator.plural, name or self.job()["metadata"]["name"]
        change = f"--patch={json.dumps({'status': status})}"
        self.kubectl("patch", kind, name, f"--namespace={PIPELINES}", "--subresource=status", "--type=merge", change)

    def suspend(self, *, suspend: bool) -> None:
        """As Kueue would."""
        change = f"--patch={json.dumps({'spec': {'suspend': suspend}})}"
        name = self.job()["metadata"]["name"]
        self.kubectl("patch", self.operator.plural, name, f"--namespace={PIPELINES}", "--type=merge", change)
        if suspend:
            self.set_status(self.operator.suspended())

    def tell(self, news: News) -> None:
        """As the job would."""
        self.put(self.job()["metadata"]["annotations"][NEWS], json.dumps(asdict(news)).encode())

    def put(self, uri: str, content: bytes) -> None:
        """Leave an object."""
        place, _, key = uri.rpartition("/")
        open_store(place).put(key, content)

    def run_job(self, *, step: int = 1) -> None:
        """It has machines and is at this step."""
        self.place()
        self.set_status(self.operator.running())
        self.tell(News(step=step, steps=3, loss=0.7, seconds_left=2.0))

    def leave_model(self) -> str:
        """What a stage that is trained leaves; returns where the model is."""
        model = f"s3://{BUCKET}/checkpoints/{STAGE}-abc/model"
        self.put(f"{model}/stage.json", json.dumps(RESULT.to_json()).encode())
        self.put(f"s3://{BUCKET}/checkpoints/{STAGE}-abc/checkpoints/step-00000002/config.json", b"{}")
        self.tell(News(step=3, steps=3, loss=0.5, seconds_left=0.0, model=model))
        return model

    def finish_job(self) -> str:
        """It has trained the stage; returns where the model is."""
        model = self.leave_model()
        self.set_status(self.operator.succeeded())
        return model

    def place(self, status: Mapping[str, Any] | None = None, *, node: str = NODE) -> None:
        """A worker has a machine, or waits for one where `node` is empty."""
        name = self.job()["metadata"]["name"]
        found = self.kubectl("get", "pods", f"--namespace={PIPELINES}", "--output=name")
        if f"pod/{WORKER}" in found:
            return
        self.make_pod(WORKER, status=status or {}, labels=self.operator.workers(name), node=node)

    def make_pod(
        self, name: str, *, status: Mapping[str, Any], labels: Mapping[str, str], node: str = "",
        owner: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """A pod with the status that the kubelet would write."""
        metadata = {"name": name, "namespace": PIPELINES, "labels": dict(labels)}
        pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
        pod["spec"] = {
            "containers": [{"name": "ray", "image": "registry.example.org/none:1"}],
            "nodeName": node or None,
        }
        if owner is not None:
            pod["metadata"]["ownerReferences"] = [dict(owner)]
        self.kubectl("create", "--filename=-", stdin=json.dumps(pod))
        if status:
            self.set_status(status, kind="pod", name=name)

    def end_jobs(self) -> None:
        """Remove all of them, and the pod that stands for theirs."""
        self.kubectl("delete", self.operator.plural, "--all", f"--namespace={PIPELINES}", "--wait=true")
        force = ("--ignore-not-found", "--force", "--grace-period=0")
        self.kubectl("delete", "pod", WORKER, f"--namespace={PIPELINES}", *force)

    def clear(self) -> None:
        """End and remove everything that a test has left."""
        for one in self.started:
            one.process.kill()
            one.process.wait()
        self.end_jobs()
        for kind in ("pods", "workflows"):
            force = ("--force", "--grace-period=0") if kind == "pods" else ()
            self.kubectl("delete", kind, "--all", f"--namespace={PIPELINES}", "--wait=true", *force)

"""A TrainJob under the real Trainer and JobSet: their webhooks take it, and they make its pods and read their ends."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart import objects
from tests.cluster.api.conftest import PIPELINES, Kubectl
from tests.cluster.api.launching.bench import NODE, Bench, until
from tests.cluster.api.launching.controllers import running
from vilam3.launch.back_end import RECIPE_VARIABLE
from vilam3.launch.job import PER_POD, STALLED, STARTING
from vilam3.launch.trainjob import JOB_SET
from vilam3.train.news import News

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(3600),
    pytest.mark.parametrize("operator", ["trainjob"], indirect=True),
]
WORKERS = 2
LONG_S = 600
RANK = "batch.kubernetes.io/job-completion-index"
SURROUNDINGS = ("TrainingRuntime", "PriorityClass")
RUNTIME_CLASS = {  # which the GPU operator brings
    "apiVersion": "node.k8s.io/v1",
    "kind": "RuntimeClass",
    "metadata": {"name": "nvidia"},
    "handler": "nvidia",
}


@pytest.fixture
def real(bench: Bench, kubeconfig: Path, launching_chart: str, kubectl: Kubectl, tmp_path: Path) -> Iterator[Bench]:
    """Both controllers, what the chart brings for them, and pods of one process."""
    told = json.loads(bench.template.read_text("utf-8"))
    told["metadata"]["annotations"] |= {PER_POD: "1", STARTING: str(LONG_S), STALLED: str(LONG_S)}
    bench.template.write_text(json.dumps(told), "utf-8")
    made = yaml.safe_dump_all(
        [RUNTIME_CLASS, *(one for one in objects(launching_chart) if one["kind"] in SURROUNDINGS)]
    )
    folder = tmp_path / "controllers"
    with running(kubeconfig, folder=folder, kubectl=kubectl):
        kubectl("apply", "--server-side", "--filename=-", stdin=made)
        yield bench
        for launcher in bench.started:
            launcher.process.kill()
        everything = ["delete", "trainjobs", "--all", f"--namespace={PIPELINES}", "--cascade=foreground"]
        kubectl(*everything, "--wait=false")
        until(lambda: _is_gone(bench), "a job outlives its pods")
        kubectl("delete", "--ignore-not-found", "--filename=-", stdin=made)


def _pods(bench: Bench) -> list[dict[str, Any]]:
    selector = f"--selector={JOB_SET}={bench.job()['metadata']['name']}"
    told = json.loads(bench.kubectl("get", "pods", f"--namespace={PIPELINES}", selector, "--output=json"))
    return sorted(told["items"], key=lambda pod: int(pod["metadata"]["labels"][RANK]))


def _started(bench: Bench) -> list[dict[str, Any]]:
    """The pods that Kubernetes makes of it, with a machine each."""
    until(lambda: len(_pods(bench)) == WORKERS, "there are no pods")
    for pod in _pods(bench):
        name = pod["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        path = f"/api/v1/namespaces/{PIPELINES}/pods/{name}/binding"
        bench.kubectl("create", f"--raw={path}", "--filename=-", stdin=json.dumps(binding))
    return _pods(bench)


def _end(bench: Bench, pod: dict[str, Any], *, code: int, reason: str, message: str = "") -> None:
    """As the kubelet tells of a container that has ended."""
    ended = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    state = {"name": "node", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": ended}
    status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [state]}
    bench.set_status(status, kind="pod", name=pod["metadata"]["name"])


def _end_pods(bench: Bench) -> None:
    """As the kubelet lets go of pods that are to end."""
    bench.kubectl("delete", "pods", "--all", f"--namespace={PIPELINES}", "--force", "--grace-period=0")


def _is_gone(bench: Bench) -> bool:
    _end_pods(bench)
    return not bench.jobs()


def test_its_pods_are_those_that_the_chart_and_the_run_ask_for(real: Bench) -> None:
    launcher = real.start("run-1", options=["--workers", str(WORKERS)])
    launcher.await_words("queued")
    first, second = _started(real)
    name = real.job()["metadata"]["name"]
    (container,) = first["spec"]["containers"]
    variables = {one["name"]: one for one in container["env"]}
    assert variables["PET_NNODES"]["value"] == str(WORKERS)
    assert variables["PET_NPROC_PER_NODE"]["value"] == "1"
    assert variables["PET_MASTER_ADDR"]["value"] == f"{name}-node-0-0.{name}"
    assert RANK in variables["PET_NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert {RECIPE_VARIABLE, "AWS_ACCESS_KEY_ID", "NCCL_SOCKET_IFNAME"} <= set(variables)
    assert container["command"][:1] == ["torchrun"]
    assert container["command"][-1] == f"$({RECIPE_VARIABLE})"
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    asked = json.loads(real.template.read_text("utf-8"))["spec"]["trainer"]["resourcesPerNode"]
    assert container["resources"] == asked
    assert {"/dev/shm", "/tmp"} <= {one["mountPath"] for one in container["volumeMounts"]}  # noqa: S108 - of the pod
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert second["spec"]["terminationGracePeriodSeconds"] == 600
    assert second["spec"]["priorityClassName"].endswith("-training")
    assert second["spec"]["runtimeClassName"] == "nvidia"
    assert second["spec"]["nodeSelector"]["node.kubernetes.io/instance-type"] == "p5.48xlarge"
    launcher.await_words("starting")


def test_it_is_watched_to_its_end(real: Bench) -> None:
    launcher = real.start("run-2", options=["--workers", str(WORKERS)])
    launcher.await_words("queued")
    pods = _started(real)
    real.tell(News(step=1, steps=3, loss=0.7, seconds_left=2.0))
    launcher.await_words("1/3")
    model = real.leave_model()
    for pod in pods:
        _end(real, pod, code=0, reason="Completed")
    assert launcher.result()["out"] == model
    (condition,) = [one for one in real.job()["status"]["conditions"] if one["status"] == "True"]
    assert condition["type"] == "Complete"


def test_a_pod_that_is_killed_fails_it_for_good_and_is_named(real: Bench) -> None:
    """The other is asked to end, and says so; the log of neither is read."""
    launcher = real.start("run-3", options=["--workers", str(WORKERS)])
    launcher.await_words("queued")
    first, second = _started(real)
    launcher.await_words("starting")
    real.tell(News(step=1, steps=3, kind="PreemptedError", message="asked to end"))
    _end(real, second, code=137, reason="OOMKilled")
    until(lambda: _ended(real, {first["metadata"]["uid"]}), "the other is not asked to end")
    assert launcher.code() == 1, launcher.log.read_text("utf-8")
    assert launcher.said(f"want of memory (pod {second['metadata']['name']} on {NODE})")


def test_a_queue_takes_its_machines_away_and_gives_others_later(real: Bench) -> None:
    """As Kueue does for somebody who matters more; JobSet then removes its pods, and makes others."""
    launcher = real.start("run-4", options=["--workers", str(WORKERS)])
    launcher.await_words("queued")
    before = {pod["metadata"]["uid"] for pod in _started(real)}
    real.tell(News(step=1, steps=3, loss=0.7, seconds_left=2.0))
    launcher.await_words("1/3")
    _suspend(real, suspend=True)
    until(lambda: _ended(real, before), "its pods are still there")
    until(lambda: launcher.log.read_text("utf-8").count("queued") > 1, "it is not queued again")
    _suspend(real, suspend=False)
    pods = _started(real)
    assert not before & {pod["metadata"]["uid"] for pod in pods}
    model = real.leave_model()
    for pod in pods:
        _end(real, pod, code=0, reason="Completed")
    assert launcher.result()["out"] == model


def test_it_goes_with_its_pods_when_its_launcher_is_asked_to_end(real: Bench) -> None:
    """And only with them: until the last has saved, a job of this name holds machines, and no other is made."""
    launcher = real.start("run-5", options=["--workers", str(WORKERS)])
    launcher.await_words("queued")
    pods = {pod["metadata"]["uid"] for pod in _started(real)}
    launcher.await_words("starting")
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.code() == 75, launcher.log.read_text("utf-8")
    until(lambda: all("deletionTimestamp" in pod["metadata"] for pod in _pods(real)), "its pods are not asked to end")
    (before,) = real.jobs()
    assert "deletionTimestamp" in before["metadata"]
    again = real.start("run-5", options=["--workers", str(WORKERS)])
    until(lambda: _ended(real, pods), "its pods are still there")
    again.await_words("queued")
    assert real.job()["metadata"]["uid"] != before["metadata"]["uid"]


def test_a_runtime_that_is_not_there_is_named(real: Bench) -> None:
    told = json.loads(real.template.read_text("utf-8"))
    told["spec"]["runtimeRef"]["name"] = "no-such-runtime"
    real.template.write_text(json.dumps(told), "utf-8")
    launcher = real.start("run-6", options=["--workers", str(WORKERS)])
    assert launcher.code() == 1, launcher.log.read_text("utf-8")
    assert launcher.said("no-such-runtime")
    assert not real.jobs()


def _suspend(bench: Bench, *, suspend: bool) -> None:
    name = bench.job()["metadata"]["name"]
    change = f"--patch={json.dumps({'spec': {'suspend': suspend}})}"
    bench.kubectl("patch", "trainjobs", name, f"--namespace={PIPELINES}", "--type=merge", change)


def _ended(bench: Bench, uids: set[str]) -> bool:
    """Whether none of these pods is left; those that were asked to end do so now, as the kubelet has it."""
    told = json.loads(bench.kubectl("get", "pods", f"--namespace={PIPELINES}", "--output=json"))
    for pod in told["items"]:
        if "deletionTimestamp" in pod["metadata"]:
            force = ("--ignore-not-found", "--force", "--grace-period=0")
            bench.kubectl("delete", "pod", pod["metadata"]["name"], f"--namespace={PIPELINES}", *force)
    return not uids & {pod["metadata"]["uid"] for pod in told["items"]}

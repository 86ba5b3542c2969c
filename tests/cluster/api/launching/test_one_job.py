"""A stage is trained by one job, whoever launches it and whatever befalls them: on a real API server and store."""

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from infra.cluster.layout import Layout
from tests.chart import KUBERAY, SCENARIOS, TRAINER, of_kind, render
from tests.cluster.api.conftest import PIPELINES, Kubectl
from tests.cluster.api.launching.bench import ACCOUNT, BUCKET, RECIPE, SHORT_S, STAGE, Bench, disrupted, launches, until
from tests.cluster.api.launching.operators import Operator
from vilam3.errors import ClusterError
from vilam3.launch.job import Request, Template
from vilam3.launch.job import render as manifest_of
from vilam3.objects import open_store
from vilam3.recipe import load
from vilam3.train.record import parse_stage

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_server_accepts_the_manifest_of_every_scenario(
    scenario: str, operator: Operator, kubectl: Kubectl, tmp_path: Path
) -> None:
    """Strict validation: no unknown field, no duplicate, no wrong type."""
    network = {"env": {"NCCL_IB_HCA": "mlx5"}, "resources": {"rdma/ib": 1}}
    changes = launches(operator.launcher)
    changes["training"] |= {"network": network, "shmSize": "16Gi"}
    made = render(scenario, apis=(*SCENARIOS[scenario], *KUBERAY, *TRAINER), changes=changes)
    file = tmp_path / "job.json"
    file.write_text(of_kind(made, "ConfigMap")["vilam3-job"]["data"]["job.json"], "utf-8")
    recipe = load([RECIPE])
    places = {"corpus": "s3://b/corpus", "base": "", "checkpoints": "s3://b/checkpoints"}
    request = Request(recipe=recipe, stage=STAGE, run_id="r", workers=1, **places)
    text = json.dumps(manifest_of(request, template=Template.read(file)))
    told = kubectl(
        "apply", "--dry-run=server", "--server-side", "--validate=strict", "--output=name", "--filename=-", stdin=text
    )
    assert told.strip().partition(".")[0] == operator.launcher
    assert told.strip().endswith(f"/{request.name}")
    with pytest.raises(ClusterError, match="not declared in schema"):
        kubectl(
            "apply", "--dry-run=server", "--server-side", "--validate=strict", "--filename=-",
            stdin=text.replace('"securityContext"', '"securityContexts"'),
        )  # fmt: skip


def test_two_launchers_at_once_make_one_job(bench: Bench) -> None:
    both = [bench.start("run-1"), bench.start("run-1")]
    for one in both:
        one.await_words("queued")
    assert len(bench.jobs()) == 1
    assert sum(one.said("is made in namespace") for one in both) == 1
    bench.run_job()
    model = bench.finish_job()
    assert [one.result()["out"] for one in both] == [model, model]


def test_a_killed_launcher_is_followed_by_one_that_finds_the_job(bench: Bench) -> None:
    """Its result is where it says, with the records of its stages beside it and the models that were kept."""
    first = bench.start("run-1")
    first.await_words("queued")
    uid = bench.job()["metadata"]["uid"]
    first.process.kill()
    second = bench.start("run-1", options=["--page", str(bench.folder / "page.html")])
    bench.run_job(step=2)
    second.await_words("2/3")
    model = bench.finish_job()
    told = second.result()
    assert bench.job()["metadata"]["uid"] == uid
    assert not second.said("is made in namespace")
    assert told["out"] == model
    assert told["kept"] == f"{model.rpartition('/')[0]}/checkpoints"
    record = open_store(model).get(f"lineage/{STAGE}/stage.json")
    assert parse_stage(record, where=model).steps == told["steps"] == 3
    assert "trained by a job" in (bench.folder / "page.html").read_text("utf-8")


def test_the_job_belongs_to_the_run_of_the_pipeline_and_goes_with_it(bench: Bench) -> None:
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}
    told = {**workflow, "metadata": {"name": "finetune-1", "namespace": PIPELINES}, "spec": {}}
    run = json.loads(bench.kubectl("create", "--output=json", "--filename=-", stdin=json.dumps(told)))
    owner = {**workflow, "name": "finetune-1", "uid": run["metadata"]["uid"]}
    bench.make_pod("step", status={}, labels={}, owner={**owner, "controller": True})
    launcher = bench.start(pod="step")
    launcher.await_words("queued")
    (found,) = bench.job()["metadata"]["ownerReferences"]
    assert {key: found[key] for key in owner} == owner
    bench.kubectl("delete", "workflow", "finetune-1", f"--namespace={PIPELINES}")
    until(lambda: not bench.jobs(), "the job outlives the run it belongs to")
    assert launcher.code() == 1
    assert launcher.said("it is not there any more")


def test_a_launcher_that_is_asked_to_end_ends_its_job(bench: Bench) -> None:
    launcher = bench.start("run-1")
    bench.run_job()
    launcher.await_words("1/3")
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.code() == 75
    until(lambda: not bench.jobs(), "the job is still there")


def test_a_launcher_whose_machine_is_emptied_leaves_its_job(bench: Bench) -> None:
    """A drained node is no reason to stop hundreds of accelerators elsewhere."""
    bench.make_pod("step", status=disrupted("EvictionByEvictionAPI"), labels={})
    launcher = bench.start("run-1", pod="step")
    bench.run_job()
    launcher.await_words("1/3")
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.code() == 75
    assert launcher.said("the job goes on")
    assert bench.operator.running().items() <= bench.job()["status"].items()


def test_waiting_in_a_queue_is_no_failure_and_stalling_is(bench: Bench) -> None:
    launcher = bench.start("run-1")
    bench.suspend(suspend=True)
    launcher.await_words("queued")
    time.sleep(2 * SHORT_S)
    assert launcher.process.poll() is None
    bench.suspend(suspend=False)
    bench.run_job()
    assert launcher.code() == 75
    assert launcher.said("no step was finished for too long: at step 1")
    until(lambda: not bench.jobs(), "the job is still there")


def test_machines_that_bring_no_step_are_given_back(bench: Bench) -> None:
    launcher = bench.start("run-1")
    bench.place()
    bench.set_status(bench.operator.preparing())
    assert launcher.code() == 75
    assert launcher.said("machines were there, and no step was finished")
    until(lambda: not bench.jobs(), "the job is still there")


def test_an_api_server_that_starts_again_goes_unnoticed(bench: Bench, kubeconfig: Path) -> None:
    launcher = bench.start("run-1")
    bench.suspend(suspend=True)
    launcher.await_words("queued")
    states = json.loads(Layout(kubeconfig.parent).processes.read_text("utf-8"))["processes"]
    (server,) = [state for state in states if state["name"] == "kube-apiserver"]
    os.kill(server["pid"], signal.SIGKILL)
    launcher.await_words("no answer, the job goes on by itself")
    until(lambda: _answers(bench), "the API server is not back")
    bench.suspend(suspend=False)
    bench.run_job()
    model = bench.finish_job()
    assert launcher.result()["out"] == model
    assert not psutil.pid_exists(server["pid"]) or psutil.Process(server["pid"]).create_time() != server["started_s"]


def _answers(bench: Bench) -> bool:
    try:
        return bool(bench.kubectl("get", "--raw", "/readyz"))
    except ClusterError:
        return False


def test_the_same_run_with_another_corpus_is_refused(bench: Bench) -> None:
    bench.start("run-1").await_words("queued")
    other = bench.start("run-1", options=["--corpus", f"s3://{BUCKET}/another"])
    assert other.code() == 2
    assert other.said("is there already with another corpus")
    assert len(bench.jobs()) == 1


@pytest.mark.parametrize(
    ("verb", "what"),
    [("get", "secrets"), ("create", "pods"), ("delete", "pods"), ("patch", "jobs"), ("update", "jobs"),
     ("list", "jobs"), ("create", "rayclusters"), ("create", "trainingruntimes"),
     ("create", "jobs.batch"), ("get", "configmaps"), ("get", "pods --subresource=log"),
     ("create", "pods --subresource=exec")],
)  # fmt: skip
def test_the_account_of_the_steps_may_do_no_more(
    verb: str, what: str, steps_account: Path, operator: Operator, kubectl: Kubectl
) -> None:
    assert steps_account.is_file()
    what = operator.plural if what == "jobs" else what
    asked = (
        "auth",
        "can-i",
        verb,
        *what.split(),
        f"--namespace={PIPELINES}",
        f"--as=system:serviceaccount:{PIPELINES}:{ACCOUNT}",
    )
    with pytest.raises(ClusterError):  # kubectl says no by its exit code
        kubectl(*asked)


def test_a_launcher_without_the_right_says_so(bench: Bench) -> None:
    launcher = bench.start("run-1", options=["--namespace", "default"])
    assert launcher.code() == 1
    assert launcher.said("403 Forbidden; ask for the right")

"""Why a job failed is told in a sentence, with an exit code that says whether to start again."""

import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.cluster.api.launching.bench import NODE, SHORT_S, Bench, disrupted
from vilam3.launch.job import NEWS
from vilam3.objects import open_store
from vilam3.tracking import connect
from vilam3.train.news import News

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]


def _ended(reason: str, code: int) -> dict[str, Any]:
    ended = {"terminated": {"reason": reason, "exitCode": code}}
    return {"containerStatuses": [{"name": "node", "image": "i", "imageID": "", "ready": False, "restartCount": 0,
                                   "state": ended}]}  # fmt: skip


# What happened: what the operator passes on, status of a worker, news; exit code and words.
CASES: Mapping[str, tuple[str, Mapping[str, Any], News | None, int, str]] = {
    "host-memory": ("", _ended("OOMKilled", 137), None, 1, f"want of memory (pod worker on {NODE})"),
    "killed": ("", _ended("Error", 137), None, 75, "killed from outside"),
    "preempted": ("", {"disrupted": "PreemptionByScheduler"}, None, 75, "more importance"),
    "node-lost": ("", {"disrupted": "DeletionByTaintManager"}, None, 75, "a machine was lost"),
    "evicted": ("", {"disrupted": "EvictionByEvictionAPI"}, None, 75, "a machine was emptied"),
    "nccl": (
        "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12, OpType=ALLREDUCE)",
        {}, None, 75, "accelerators lost each other",
    ),
    "xid": ("NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus.", {}, None, 75, "reported a fault"),
    "gpu-memory": ("torch.OutOfMemoryError: CUDA out of memory.", {}, None, 1, "has too little memory"),
    "user": ("", {}, News(kind="DataError", message="corpus: lacks its manifest"), 2, "corpus: lacks its manifest"),
    "diverged": ("", {}, News(step=2, steps=3, kind="DivergedError", message="loss nan"), 1, "loss nan"),
    "unfit": ("", {}, News(kind="UnfitError", message="node-7: clock"), 75, "node-7: clock"),
    "unknown": ("RuntimeError: something else", {}, None, 1, "something else"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_failure_has_its_class(name: str, bench: Bench) -> None:
    """In the log, on the page beside the news, and as tags in MLflow."""
    message, worker, news, code, words = CASES[name]
    launcher = bench.start("run-1")
    launcher.await_words("queued")
    if worker:
        bench.place(disrupted(worker["disrupted"]) if "disrupted" in worker else worker)  # which is as of now
    if news is not None:
        bench.tell(news)
    bench.set_status(bench.operator.failed(message))
    assert launcher.code() == code, launcher.log.read_text("utf-8")
    assert launcher.said(words), launcher.log.read_text("utf-8")
    place, _, key = bench.job()["metadata"]["annotations"][NEWS].rpartition("/")
    page = open_store(place).get(key.replace(".json", ".html")).decode()
    assert f"<strong>{name}</strong>" in page
    tracking = connect(experiment="vilam3-tiny", registered_model="vila-m3-tiny", runs=bench.folder / "runs")
    assert _tags(tracking, bench)["failure"] == name
    assert _tags(tracking, bench)["retryable"] == str(code == 75).lower()


def _tags(tracking: Any, bench: Bench) -> Mapping[str, str]:  # noqa: ANN401 - of MLflow
    run_id = tracking.begin_run("", key=bench.job()["metadata"]["name"])
    found: Mapping[str, str] = tracking._client.get_run(run_id).data.tags
    return found


def test_an_operator_has_failures_of_its_own(bench: Bench) -> None:
    for number, (name, (status, code)) in enumerate(bench.operator.own_failures().items()):
        launcher = bench.start(f"run-{number}")
        launcher.await_words("queued")
        uri = bench.job()["metadata"]["annotations"][NEWS]
        bench.set_status(status)
        assert launcher.code() == code, launcher.log.read_text("utf-8")
        place, _, key = uri.rpartition("/")
        assert f"<strong>{name}</strong>" in open_store(place).get(key.replace(".json", ".html")).decode()
        bench.end_jobs()


def test_an_image_that_cannot_be_pulled_is_told_while_the_job_waits(bench: Bench) -> None:
    waiting = {
        "waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image registry.example.org/none:1"}
    }
    state = {"name": "ray", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": waiting}
    bench.start("run-1").await_words("queued")
    bench.place({"containerStatuses": [state]})
    bench.set_status(bench.operator.preparing())
    bench.started[0].await_words("Back-off pulling image")


def test_workers_without_a_machine_wait_in_a_queue(bench: Bench) -> None:
    """Without Kueue a job waits for nodes; none of its pods holds an accelerator."""
    launcher = bench.start("run-1")
    launcher.await_words("queued")
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    bench.place({"conditions": [unplaced]}, node="")
    bench.set_status(bench.operator.preparing())
    time.sleep(2 * SHORT_S)
    assert launcher.process.poll() is None
    assert not launcher.said("starting")


def test_what_machines_lost_is_made_again_and_what_the_user_got_wrong_is_not(bench: Bench) -> None:
    bench.start("run-1").await_words("queued")
    first = bench.job()["metadata"]
    bench.set_status(bench.operator.failed("NCCL communicator timed out"))
    assert bench.started[0].code() == 75
    second = bench.start("run-1")
    second.await_words("queued")
    assert second.said("was lost to machines")
    again = bench.job()["metadata"]
    assert again["name"] == first["name"]
    assert again["uid"] != first["uid"]
    assert again["annotations"][NEWS] != first["annotations"][NEWS]
    bench.tell(News(kind="RecipeError", message="stages: no"))
    bench.set_status(bench.operator.failed())
    assert second.code() == 2
    third = bench.start("run-1")
    assert third.code() == 2
    assert bench.job()["metadata"]["uid"] == again["uid"]

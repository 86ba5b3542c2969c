"""Rules of a TrainJob: what Trainer would refuse is not in it, and what it says of itself is read as it is meant."""

import copy
from typing import Any

import pytest

from vilam3.cli.main import build_parser
from vilam3.launch.back_end import RECIPE_VARIABLE, Work
from vilam3.launch.failure import classify
from vilam3.launch.trainjob import MANAGER, TrainJobs
from vilam3.train.news import News

BACK_END = TrainJobs()
WORK = Work(options=["--stage", "s", "--corpus", "s3://b/$(HOME) x"], recipe='{"a": "$(HOME)"}', workers=8, pods=2)
RESERVED = {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"}  # of Trainer


def _template(**pod: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a pod
    job = {"name": "node", "template": {"spec": {"template": {"spec": {"containers": [{"name": "node"}], **pod}}}}}
    patch = {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}}}
    trainer = {"env": [{"name": "HOME", "value": "/tmp"}]}  # noqa: S108 - as the chart has it
    return {"spec": {"runtimeRef": {"name": "torch"}, "trainer": trainer, "runtimePatches": [patch]}}


def _filled(**pod: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a pod
    manifest = _template(**pod)
    BACK_END.fill(manifest, WORK)
    trainer: dict[str, Any] = manifest["spec"]["trainer"]
    return trainer


def _replaced(word: str, recipe: str) -> str:
    """As Kubernetes replaces references in a command."""
    return word.replace("$$(", "\0").replace(f"$({RECIPE_VARIABLE})", recipe).replace("\0", "$(")


def test_the_command_is_torchruns_with_one_that_the_program_takes() -> None:
    trainer = _filled(terminationGracePeriodSeconds=600)
    recipe = {one["name"]: one["value"] for one in trainer["env"]}[RECIPE_VARIABLE].replace("$$(", "$(")
    words = [_replaced(word, recipe) for word in trainer["command"]]
    assert words[:4] == ["torchrun", "--shutdown-timeout=570", "-m", "vilam3"]
    told = build_parser().parse_args(words[4:])
    assert (told.launcher, told.corpus, told.resolved_recipe) == ("torchrun", "s3://b/$(HOME) x", WORK.recipe)
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert not RESERVED & {one["name"] for one in trainer["env"]}


@pytest.mark.parametrize(("grace_s", "save_s"), [(600, 570), (40, 30), (None, 23)])
def test_torchrun_lets_its_processes_save_for_as_long_as_the_pod_may_take(grace_s: int | None, save_s: int) -> None:
    trainer = _filled(**({"terminationGracePeriodSeconds": grace_s} if grace_s else {}))
    assert f"--shutdown-timeout={save_s}" in trainer["command"]


def test_a_patch_of_another_manager_is_left_alone() -> None:
    """Kueue adds one of its own."""
    manifest = _template()
    other = {"manager": "kueue.x-k8s.io/manager", "trainingRuntimeSpec": {}}
    manifest["spec"]["runtimePatches"].insert(0, copy.deepcopy(other))
    BACK_END.verify(manifest)
    BACK_END.fill(manifest, WORK)
    assert manifest["spec"]["runtimePatches"][0] == other


def _job(*conditions: str, suspend: bool = False, message: str = "", reason: str = "R") -> dict[str, Any]:
    told = [{"type": one, "status": "True", "reason": reason, "message": message} for one in conditions]
    return {"metadata": {"name": "j"}, "spec": {"suspend": suspend}, "status": {"conditions": told}}


def _pod(node: str = "n1", **terminated: Any) -> dict[str, Any]:  # noqa: ANN401 - of a state
    containers = [{"name": "node", "state": {"terminated": terminated}}] if terminated else []
    spec = {"nodeName": node} if node else {}
    return {"metadata": {"name": "p"}, "spec": spec, "status": {"containerStatuses": containers}}


@pytest.mark.parametrize(
    ("job", "pods", "news", "phase"),
    [
        ({"metadata": {"name": "j"}}, [], None, "queued"),  # Trainer has not seen it
        (_job("Suspended", suspend=True), [_pod()], News(step=3), "queued"),
        (_job(), [_pod(node="")], None, "queued"),
        (_job(), [_pod(), _pod(node="")], None, "starting"),
        (_job(), [_pod()], News(), "starting"),
        (_job(), [_pod()], News(step=3), "running"),
        (_job(), [_pod()], News(step=3, kind="PreemptedError"), "starting"),  # of before it waited
        (_job("Failed"), [], News(step=3), "over"),
        (_job("Complete"), [], News(step=3), "over"),
    ],
)
def test_its_phase(job: dict[str, Any], pods: list[dict[str, Any]], news: News | None, phase: str) -> None:
    assert BACK_END.observed(job, pods, news).phase == phase


def test_its_end() -> None:
    assert BACK_END.observed(_job("Complete"), [], News()).has_succeeded
    assert not BACK_END.observed(_job("Failed"), [], News()).has_succeeded
    assert classify(BACK_END.observed(_job("Failed", reason="TrainingRuntimeNotSupported"), [], None)).cause.name == (
        "refused"
    )


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("Root Cause (first observed failure):\n  exitcode  : 75 (pid: 12)", "preempted"),
        ("  exitcode  : -9 (pid: 12)\n  traceback : Signal 9 (SIGKILL) received by PID 12", "killed"),
        ("  exitcode  : 2 (pid: 12)", "user"),
        ("  exitcode  : 1 (pid: 12)", "unknown"),
        ("ncclRemoteError: A call failed possibly due to a network error", "nccl"),
    ],
)
def test_the_end_of_a_pods_log_tells_where_the_store_was_away(words: str, name: str) -> None:
    last = BACK_END.observed(_job("Failed"), [_pod(exitCode=1, reason="Error", message=words)], None)
    assert classify(last).cause.name == name


def test_a_pod_that_was_killed_explains_why_the_others_were_asked_to_end() -> None:
    asked = News(step=3, kind="PreemptedError", message="asked to end")
    killed = _pod(exitCode=137, reason="OOMKilled")
    found = classify(BACK_END.observed(_job("Failed"), [killed], asked))
    assert (found.cause.name, found.where) == ("host-memory", "pod p on n1")
    assert classify(BACK_END.observed(_job("Failed"), [_pod()], asked)).cause.name == "preempted"

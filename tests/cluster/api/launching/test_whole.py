"""What a launched job does and leaves, for real: its own command runs here, in place of the pods that it would have.

Two stages after each other, so that the second begins with what the first has left in the store.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.chart import ROOT
from tests.cluster.api.launching.bench import BUCKET, Bench
from vilam3.evaluate.assess import candidates_of
from vilam3.launch.back_end import RECIPE_VARIABLE
from vilam3.launch.job import HERE, PER_POD, STALLED, STARTING
from vilam3.objects import open_store
from vilam3.recipe import load
from vilam3.train.sources import brought
from vilam3.workplace import lineage

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
MICRO = ROOT / "tests" / "e2e" / "micro.toml"
JOB_S = 900


@pytest.fixture
def corpus(bench: Bench) -> str:
    """In the store."""
    folder = bench.folder / "prepared"
    command = [sys.executable, "-m", "vilam3", "prepare", "--recipe", str(MICRO), "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)  # noqa: S603 - our own program
    store = open_store(f"s3://{BUCKET}/micro")
    for file in folder.rglob("*"):
        if file.is_file():
            store.put(f"corpus/{file.relative_to(folder).as_posix()}", file)
    return f"s3://{BUCKET}/micro/corpus"


@pytest.fixture
def volume() -> Iterator[Path]:
    """A folder in place of the pods' volumes; Ray's sockets want a short path."""
    with tempfile.TemporaryDirectory(prefix="pod-", dir="/tmp") as folder:
        yield Path(folder)


def _run_as_pods_would(bench: Bench, folder: Path) -> None:
    """What the manifest's pods run, with a folder instead of each pod's volume."""
    spec = bench.job()["spec"]
    bench.place()
    bench.set_status(bench.operator.running())
    run = {"rayjob": _run_head, "trainjob": _run_nodes}[bench.operator.launcher]
    run(bench, spec, folder)
    bench.set_status(bench.operator.succeeded())


def _run_head(bench: Bench, spec: Mapping[str, Any], folder: Path) -> None:
    """A shell on the head, from which Ray starts the processes."""
    container = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    recipe = _recipe(container["env"])
    command = ["/bin/sh", "-c", spec["entrypoint"].replace(HERE, str(folder))]
    _await([_start(command, environment=_environment(bench, folder) | {RECIPE_VARIABLE: recipe})])


def _run_nodes(bench: Bench, spec: Mapping[str, Any], folder: Path) -> None:
    """As many pods as it says, each with the variables that Trainer gives it, after what Kubernetes replaces."""
    trainer, started = spec["trainer"], []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    gang = {"PET_NNODES": str(trainer["numNodes"]), "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"])}
    gang |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}
    reference = f"$({RECIPE_VARIABLE})"
    for rank in range(trainer["numNodes"]):
        own = folder / str(rank)
        own.mkdir(exist_ok=True)
        words = [word.replace(reference, _recipe(trainer["env"])) for word in trainer["command"]]
        words = [word.replace(HERE, str(own)) for word in words]
        environment = _environment(bench, own) | gang | {"PET_NODE_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        started.append(_start(words, environment=environment))
    _await(started)


def _recipe(variables: Sequence[Mapping[str, str]]) -> str:
    return {one["name"]: one.get("value", "") for one in variables}[RECIPE_VARIABLE].replace("$$(", "$(")


def _environment(bench: Bench, folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, **bench.s3.environment(), "PATH": path, "TMPDIR": str(folder)}


def _start(command: Sequence[str], *, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT)  # noqa: S603 - the manifest's own


def _await(started: Sequence["subprocess.Popen[str]"]) -> None:
    try:
        for process in started:
            _, errors = process.communicate(timeout=JOB_S)
            assert process.returncode == 0, errors[-4000:]
    finally:
        for process in started:
            process.kill()
            process.wait()


def _adapt(template: Path) -> None:
    """Time for a machine without accelerators, and pods of one process."""
    told = json.loads(template.read_text("utf-8"))
    told["metadata"]["annotations"] |= {STARTING: str(JOB_S), STALLED: str(JOB_S), PER_POD: "1"}
    template.write_text(json.dumps(told), "utf-8")


def test_a_stage_goes_on_from_what_the_job_before_has_left(bench: Bench, corpus: str, volume: Path) -> None:
    _adapt(bench.template)
    workers = {"rayjob": "1", "trainjob": "2"}[bench.operator.launcher]
    places = ["--corpus", corpus, "--workers", workers]
    first = bench.start("run-1", recipe=MICRO, options=places)
    _run_as_pods_would(bench, volume)
    base = first.result()["out"]
    bench.end_jobs()
    second = bench.start("run-1", recipe=MICRO, stage="stage4_expert", options=[*places, "--base", base])
    _run_as_pods_would(bench, volume)
    told = second.result()
    assert told["steps"] == load([MICRO]).stage("stage4_expert").steps
    model = brought(told["out"])
    assert [stage.name for stage in lineage(model)] == ["stage1_align", "stage4_expert"]
    kept = candidates_of(model, kept=brought(told["kept"]))
    assert [path.name for path in kept[:-1]] == ["step-00000025"]
    assert kept[-1] == model

"""What a launched job does and leaves, for real: its own command runs here, in place of the head that KubeRay starts.

Two stages after each other, so that the second begins with what the first has left in the store.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chart import ROOT
from tests.cluster.api.launching.bench import BUCKET, Bench
from vilam3.evaluate.assess import candidates_of
from vilam3.launch.job import HERE, RECIPE_VARIABLE, STALLED, STARTING
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
def head() -> Iterator[Path]:
    """A folder in place of the head's volume; Ray's sockets want a short path."""
    with tempfile.TemporaryDirectory(prefix="head-", dir="/tmp") as folder:
        yield Path(folder)


def _run_as_the_head_would(bench: Bench, folder: Path) -> None:
    """The command of the manifest in a shell, with the recipe of its environment and a folder instead of its volume."""
    spec = bench.job()["spec"]
    container = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    recipe = {one["name"]: one.get("value", "") for one in container["env"]}[RECIPE_VARIABLE].replace("$$(", "$(")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **bench.s3.environment(), RECIPE_VARIABLE: recipe, "PATH": path, "TMPDIR": str(folder)}
    command = spec["entrypoint"].replace(HERE, str(folder))
    bench.set_status({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"})
    ran = subprocess.run(  # noqa: S603 - the manifest's own
        ["/bin/sh", "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=JOB_S,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    bench.set_status({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"})


def _give_time(template: Path) -> None:
    told = json.loads(template.read_text("utf-8"))
    told["metadata"]["annotations"] |= {STARTING: str(JOB_S), STALLED: str(JOB_S)}
    template.write_text(json.dumps(told), "utf-8")


def test_a_stage_goes_on_from_what_the_job_before_has_left(bench: Bench, corpus: str, head: Path) -> None:
    _give_time(bench.template)
    places = ["--corpus", corpus, "--workers", "1"]
    first = bench.start("run-1", recipe=MICRO, options=places)
    _run_as_the_head_would(bench, head)
    base = first.result()["out"]
    bench.kubectl("delete", "rayjobs", "--all", "--namespace=kubeflow")
    second = bench.start("run-1", recipe=MICRO, stage="stage4_expert", options=[*places, "--base", base])
    _run_as_the_head_would(bench, head)
    told = second.result()
    assert told["steps"] == load([MICRO]).stage("stage4_expert").steps
    assert second.said(f"{told['steps']}/{told['steps']}") or second.said("running")
    model = brought(told["out"])
    assert [stage.name for stage in lineage(model)] == ["stage1_align", "stage4_expert"]
    kept = candidates_of(model, kept=brought(told["kept"]))
    assert [path.name for path in kept[:-1]] == ["step-00000025"]
    assert kept[-1] == model

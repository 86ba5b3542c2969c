"""A RayJob of the chart trains stage 4 on two workers, outlives the loss of one, and its models are where it says."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chart import ROOT
from tests.cluster.kserve.platform import WEIGHTS
from tests.cluster.kserve.trained import Trained
from tests.cluster.ray.platform import CHECKPOINTS, HERE, Ended, TrainingPlatform

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(7200)]
RECIPES = (ROOT / "pipelines" / "recipes" / "tiny.toml", HERE / "few-steps.toml")
STEPS = 24  # as few-steps.toml says
WORKERS = 2


@pytest.fixture(scope="module")
def platform(
    kubeconfig: Path, weights: Trained, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TrainingPlatform]:
    """The chart with its RayJob, installed."""
    made = TrainingPlatform(kubeconfig=kubeconfig, values=HERE / "training.yaml")
    folder = tmp_path_factory.mktemp("training")
    recipes = folder / "recipes"
    recipes.mkdir()
    (recipes / RECIPES[1].name).write_bytes(RECIPES[1].read_bytes())
    with made.prepared({"corpus": _corpus(folder / "corpus"), "base": weights.model, "recipes": recipes}):
        made.apply()
        yield made


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbed:
    """A job that lost a worker: what there was before, and what became of it."""

    before: Mapping[str, Any]
    workers: frozenset[str]
    killed: str
    steps: tuple[int, ...]
    ended: Ended


@pytest.fixture(scope="module")
def disturbed(platform: TrainingPlatform) -> Disturbed:
    """The job at its end; a worker was killed after the first checkpoint."""
    platform.await_checkpoint()
    before, workers, steps = platform.job(), platform.workers(), platform.steps()
    killed = min(workers)
    platform.kubectl("delete", "pod", killed, "--force", "--grace-period=0", "--wait=false")
    ended = platform.await_end()
    return Disturbed(before=before, workers=frozenset(workers), killed=killed, steps=tuple(steps), ended=ended)


def _corpus(folder: Path) -> Path:
    recipes = [word for file in RECIPES for word in ("--recipe", str(file))]
    command = [sys.executable, "-m", "vilam3", "prepare", *recipes, "--out", str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    assert ran.returncode == 0, ran.stderr
    return folder


def test_the_job_succeeds_in_the_cluster_it_began_in(disturbed: Disturbed) -> None:
    """Ray replaced the worker; KubeRay had no reason to start the job again."""
    assert disturbed.ended.status["jobStatus"] == "SUCCEEDED", disturbed.ended.status
    for name in ("failed", "rayClusterName"):
        assert disturbed.ended.status.get(name) == disturbed.before.get(name)


def test_the_lost_worker_was_replaced_and_the_other_kept(disturbed: Disturbed) -> None:
    assert len(disturbed.workers) == WORKERS
    assert disturbed.workers - {disturbed.killed} <= disturbed.ended.workers
    assert len(disturbed.ended.workers - disturbed.workers) == 1


def test_training_went_on_from_its_checkpoint_in_the_store(disturbed: Disturbed) -> None:
    """Had it begun anew, it would have written its first checkpoints again."""
    later = [step for step in disturbed.ended.steps if step not in disturbed.steps]
    assert later
    assert min(later) > max(disturbed.steps)


def test_mlflow_shows_every_step_and_the_models_by_their_place_in_the_store(
    disturbed: Disturbed, platform: TrainingPlatform
) -> None:
    assert disturbed.ended.status["jobStatus"] == "SUCCEEDED"
    experiments = [
        one["experiment_id"] for one in platform.mlflow("experiments/search", max_results=100)["experiments"]
    ]
    (run,) = platform.mlflow("runs/search", experiment_ids=experiments)["runs"]
    assert run["info"]["status"] == "FINISHED"
    assert {"key": "stage", "value": "stage4_expert"} in run["data"]["params"]
    losses = platform.mlflow("metrics/get-history", run_id=run["info"]["run_id"], metric_key="loss")["metrics"]
    assert {int(one["step"]) for one in losses} == set(range(1, STEPS + 1))  # those of models have a second point
    models = platform.mlflow("logged-models/search", experiment_ids=experiments)["models"]
    sources = [tag["value"] for model in models for tag in model["info"]["tags"] if tag["key"] == "source"]
    assert sources
    assert all(source.startswith(f"s3://{WEIGHTS}/{CHECKPOINTS}/") for source in sources)

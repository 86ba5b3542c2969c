"""`vilam3 train --launcher ray` on a real Ray: a worker, the driver and the head killed, the driver asked to end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.training.processes import Place
from tests.training.ray_cluster import lose_head, ray_cluster
from tests.training.recipes import write_toml
from vilam3.errors import PreemptedError
from vilam3.recipe import Recipe
from vilam3.train.record import StageResult, read_stage

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(7200)]
LIMIT_S = 3000.0
STAGE = "stage4_expert"
Alone = dict[str, tuple[Path, StageResult]]


@pytest.fixture(scope="module")
def ray() -> Iterator[dict[str, str]]:
    """What a driver on the cluster has in its environment."""
    with ray_cluster(cpus=3, environment={"OMP_NUM_THREADS": "1"}) as environment:
        yield environment


@pytest.fixture
def slow(place: Place) -> Place:
    """Enough steps for something to happen in the middle."""
    return slowed(place)


def slowed(place: Place) -> Place:
    return place.changed(steps=60, checkpoint_every_steps=5)


def start(place: Place, ray: Mapping[str, str], *words: str) -> "subprocess.Popen[bytes]":
    """The command, with two workers and ZeRO 2."""
    recipe = place.folder / "recipe.toml"
    write_toml(place.recipe, recipe)
    options = {
        "--recipe": recipe,
        "--stage": STAGE,
        "--corpus": place.corpus,
        "--base": place.base,
        "--out": place.folder / "out",
        "--checkpoints": (place.folder / "checkpoints").as_uri(),
        "--progress-file": place.folder / "progress.json",
        "--launcher": "ray",
        "--workers": 2,
        "--strategy": "zero2",
    }
    command = [sys.executable, "-m", "vilam3", "train", "--no-tracking", *words]
    command += [str(word) for option in options.items() for word in option]
    with (place.folder / "out.json").open("wb") as out, (place.folder / "err").open("ab") as err:
        return subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **ray})  # noqa: S603 - our own


def step_of(place: Place) -> int:
    """How far it says it is."""
    try:
        return int(json.loads((place.folder / "progress.json").read_text())["step"])
    except (OSError, ValueError):
        return 0


def wait(place: Place, running: "subprocess.Popen[bytes]", until: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not until():
        assert running.poll() is None, (place.folder / "err").read_text()[-4000:]
        assert time.monotonic() < end, (place.folder / "err").read_text()[-4000:]
        time.sleep(0.1)


def finish(place: Place, running: "subprocess.Popen[bytes]") -> dict[str, Any]:
    assert running.wait(LIMIT_S) == 0, (place.folder / "err").read_text()[-4000:]
    told: dict[str, Any] = json.loads((place.folder / "out.json").read_text())
    assert read_stage(place.folder / "out").weights_digest == told["weights_digest"]
    return told


def workers() -> list[psutil.Process]:
    """Processes of members: Ray names them for their class."""
    return [
        one for one in psutil.process_iter(["name", "cmdline"]) if "RayTrainWorker" in " ".join(one.info["cmdline"])
    ]


@pytest.fixture(scope="module")
def undisturbed(
    recipe: Recipe, corpus: Path, alone: Alone, ray: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The same stage, left alone."""
    base, folder = alone["stage3_instruct"][0], tmp_path_factory.mktemp("calm")
    calm = slowed(Place(recipe=recipe, corpus=corpus, base=base, folder=folder))
    return finish(calm, start(calm, ray))


def test_a_killed_worker_is_replaced_and_the_end_is_the_same_to_the_bit(
    slow: Place, ray: Mapping[str, str], undisturbed: dict[str, Any]
) -> None:
    running = start(slow, ray)
    wait(slow, running, lambda: step_of(slow) >= 12)
    victim = workers()[-1]
    victim.kill()
    found = finish(slow, running)
    assert (found["final_loss"], found["weights_digest"]) == (undisturbed["final_loss"], undisturbed["weights_digest"])
    assert found["settings"]["workers"] == "2"


def test_a_killed_driver_is_started_again_and_goes_on(
    slow: Place, ray: Mapping[str, str], undisturbed: dict[str, Any]
) -> None:
    running = start(slow, ray)
    wait(slow, running, lambda: step_of(slow) >= 12)
    running.kill()
    running.wait()
    found = finish(slow, start(slow, ray))
    assert found["weights_digest"] == undisturbed["weights_digest"]


def test_sigterm_to_the_driver_saves_and_asks_to_be_run_again(slow: Place, ray: Mapping[str, str]) -> None:
    running = start(slow, ray)
    wait(slow, running, lambda: step_of(slow) >= 7)
    running.send_signal(signal.SIGTERM)
    assert running.wait(LIMIT_S) == PreemptedError.exit_code
    assert "the state is saved, run the same command to go on" in (slow.folder / "err").read_text()
    (run,) = (slow.folder / "checkpoints").iterdir()
    assert len(list(run.glob("*/manifest.json"))) == 2
    assert finish(slow, start(slow, ray))["steps"] == 60


def test_what_the_user_must_mend_is_said_at_once(place: Place, ray: Mapping[str, str]) -> None:
    running = start(place.changed(mixture={"reports": 1}), ray)
    assert running.wait(LIMIT_S) == 2
    assert "mixture.reports" in (place.folder / "err").read_text()


def test_a_lost_head_takes_all_with_it_and_another_cluster_goes_on(slow: Place, undisturbed: dict[str, Any]) -> None:
    """As with KubeRay's RayJob: a head that is lost ends its cluster, and another one runs the same command."""
    with ray_cluster(cpus=3, environment={"OMP_NUM_THREADS": "1"}) as first:
        running = start(slow, first)
        wait(slow, running, lambda: step_of(slow) >= 12)
        lose_head(first)
        running.kill()  # it ran on the head
        running.wait()
    with ray_cluster(cpus=3, environment={"OMP_NUM_THREADS": "1"}) as second:
        found = finish(slow, start(slow, second))
    assert found["weights_digest"] == undisturbed["weights_digest"]
    assert found["steps"] == 60

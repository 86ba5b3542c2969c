"""What a stage has cost: processes killed in the middle, and their causes sum to the time that a watch has measured."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.training.processes import Mischief, Place, finished, run_gang
from tests.training.recipes import write_toml
from vilam3.train.expense import CAUSES, Expense
from vilam3.train.record import read_stage

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
STAGE = "stage4_expert"
LIMIT_S = 1500.0
WITHIN = 0.01  # of the time measured from outside


def train(place: Place, *, kill_at_step: int | None, environment: Mapping[str, str]) -> float:
    """Run the command, kill it after some step; the seconds from its start to its last word, by our own clock."""
    recipe, progress = place.folder / "recipe.toml", place.folder / "progress.json"
    write_toml(place.recipe, recipe)
    options = {
        "--recipe": recipe,
        "--stage": STAGE,
        "--corpus": place.corpus,
        "--base": place.base,
        "--out": place.folder / "out",
        "--progress-file": progress,
    }
    command = [sys.executable, "-m", "vilam3", "train", "--no-tracking"]
    command += [str(word) for option in options.items() for word in option]
    with (place.folder / "err").open("ab") as err:
        started_s = time.monotonic()
        running = subprocess.Popen(  # noqa: S603 - our own
            command, stdout=subprocess.PIPE, stderr=err, env={**os.environ, **environment}
        )
        if kill_at_step is not None:
            wait(running, lambda: _step(progress) >= kill_at_step)
            running.send_signal(signal.SIGKILL)
        assert running.stdout is not None
        running.stdout.read(1)  # its last word, or its end
        lived_s = time.monotonic() - started_s
        running.communicate(timeout=LIMIT_S)
        code = running.returncode
    assert code == (0 if kill_at_step is None else -signal.SIGKILL), (place.folder / "err").read_text()[-4000:]
    return lived_s


def wait(running: "subprocess.Popen[bytes]", until: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not until():
        assert running.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


def _step(progress: Path) -> int:
    try:
        return int(json.loads(progress.read_text())["step"])
    except (OSError, ValueError):
        return 0


def checked(expense: Expense | None) -> Expense:
    """Every second has a cause."""
    assert expense is not None
    assert set(expense.device_s) == set(CAUSES)
    assert sum(expense.device_s.values()) == pytest.approx(expense.held_s, rel=WITHIN)
    assert expense.device_s["other"] <= WITHIN * expense.held_s
    return expense


def test_a_process_killed_twice_accounts_for_all_of_its_time(place: Place) -> None:
    slow = place.changed(steps=1200, checkpoint_every_steps=150)
    quiet = {"OMP_NUM_THREADS": "1"}
    lived_s = [train(slow, kill_at_step=at, environment=quiet) for at in (250, 700, None)]
    found = checked(read_stage(slow.folder / "out").expense)
    assert found.attempts == 3
    assert (found.steps, found.planned and found.planned.steps) == (1200, 1200)
    assert found.held_s == pytest.approx(sum(lived_s), rel=WITHIN)
    assert found.device_s["restart"] > found.device_s["startup"] > 1.0  # two starts again, and what was lost
    assert found.device_s["step"] > 0
    assert not list(slow.folder.glob(".out*"))


def test_a_gang_that_lost_a_member_says_what_it_cost_all_of_them(place: Place) -> None:
    longer = place.changed(steps=40, checkpoint_every_steps=10)
    run_gang(longer, 2, "ddp", mischief=Mischief(rank=1, dies_after_step=27))
    (run,) = (longer.folder / "checkpoints").iterdir()
    (left,) = (run / "ledger").glob("*.json")
    assert [mark["step"] for mark in json.loads(left.read_text())["marks"]] == [0, 10, 20]
    run_gang(longer, 2, "ddp")
    told = read_stage(longer.folder / "out")
    found = checked(told.expense)
    assert (found.devices, found.attempts) == (2, 2)
    assert found.device_s["restart"] > 0
    assert found.queue_s > 0  # nobody held two processes between the two starts
    assert list(run.iterdir()) == []
    assert finished(run_gang(longer, 2, "ddp"))["expense"] == told.to_json()["expense"]  # taken over, not trained again

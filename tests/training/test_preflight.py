"""Before the first step: a slow link, a clock that is off, a disk or store that refuses are found and named by all."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.processes import Mischief, Place, run_gang
from tests.training.recipes import write_toml

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
MOST_S = 90.0


@pytest.mark.parametrize(
    ("mischief", "said"),
    [
        (Mischief(rank=1, slows_sums_s=0.5), "sums with all others: 0.[0-9]+ MiB/s, at least 10 wanted"),
        (Mischief(rank=1, clock_off_s=300.0), "clock beside the first member's: [23][0-9.]+ s, at most 60 wanted"),
        (Mischief(rank=1, disk_bytes=1 << 20), r"writing temporary files: .* cannot be written \(File too large\)"),
    ],
    ids=["link", "clock", "disk"],
)
def test_an_unfit_member_is_named_before_the_first_step(place: Place, mischief: Mischief, said: str) -> None:
    started = time.monotonic()
    endings = run_gang(place, 2, "ddp", mischief=mischief)
    assert time.monotonic() - started < MOST_S
    assert [(ending.code, ending.error) for ending in endings] == [(1, "UnfitError")] * 2, endings
    assert endings[0].message == endings[1].message
    assert re.search(f"member 1 on [^ ]+: {said}", endings[0].message), endings[0].message
    assert not list(place.folder.glob("notes-*/steps"))


def test_a_store_that_cannot_be_written_is_found(place: Place) -> None:
    """A file is in the way of its folder."""
    (place.folder / "file").write_text("not a folder")
    endings = run_gang(replace(place, checkpoints=(place.folder / "file" / "below").as_uri()), 2, "ddp")
    assert {ending.code for ending in endings} == {2}
    assert "choose a directory this user may write to" in endings[0].message


def test_it_can_be_asked_for_alone_and_leaves_nothing(place: Place) -> None:
    """By torchrun, of two processes; their table is on standard output."""
    write_toml(place.recipe, place.folder / "recipe.toml")
    words = ["--recipe", "recipe.toml", "--stage", place.stage, "--out", "out", "--launcher", "torchrun", "--preflight"]
    starter = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vilam3", "train"]
    told = subprocess.run(  # noqa: S603 - our own
        [sys.executable, "-m", *starter, *words],
        cwd=place.folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    checks = json.loads(told.stdout)
    assert all(check["is_good"] for check in checks)
    assert {check["member"] for check in checks} == {0, 1}
    assert len({check["name"] for check in checks}) == 7
    assert sorted(path.name for path in place.folder.iterdir()) == ["recipe.toml"]

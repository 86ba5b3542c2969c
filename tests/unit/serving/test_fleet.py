"""Parts end with the one who started them, also where he is killed and can end nobody."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from serving import tethered
from serving.fleet import Fleet
from vilam3.errors import ClusterError

PARENT = """
import sys, time
from serving.fleet import Fleet
fleet = Fleet()
for number in range(2):
    part = fleet.run("part", [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(600)"])
    fleet.await_ready(part)
    print(part.process.pid, flush=True)
time.sleep(600)
"""
LONGEST_S = 30.0


def test_parts_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    parent = subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    parts = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
    assert all(part.is_running() for part in parts)
    parent.send_signal(signal.SIGKILL)
    parent.wait(LONGEST_S)
    parent.stdout.close()
    _, alive = psutil.wait_procs(parts, timeout=LONGEST_S)
    assert alive == []


def test_a_part_whose_parent_has_gone_before_it_began_does_not_begin() -> None:
    command = [sys.executable, tethered.__file__, "1", sys.executable, "-c", "print('begun')"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b""  # noqa: S603 - our own


def test_one_that_ends_is_named() -> None:
    with Fleet() as fleet:
        router = fleet.run("router", [sys.executable, "-c", "raise SystemExit(3)"])
        with pytest.raises(ClusterError, match="router: ended with code 3"):
            fleet.await_ready(router)

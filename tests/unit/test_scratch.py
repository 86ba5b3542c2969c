"""Temporary folders: gone with the block, and gone after a kill when the next one is made there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vilam3.scratch import HELD, scratch, sweep

HOLDS = """
import sys, time
from pathlib import Path
from vilam3.scratch import scratch
with scratch("vilam3-serve-", folder=Path(sys.argv[1])) as folder:
    (folder / "study").write_text("of a patient")
    print(folder, flush=True)
    time.sleep(600)
"""


def _holding(folder: Path) -> tuple["subprocess.Popen[str]", Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own program
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def _age(folder: Path) -> None:
    old_s = time.time() - 3600
    for held in folder.rglob(f"*{HELD}"):
        os.utime(held, (old_s, old_s))


def test_nothing_is_left_by_a_block_that_ends_or_fails(tmp_path: Path) -> None:
    with scratch(folder=tmp_path) as folder:
        (folder / "file").write_text("content")
        assert sorted(tmp_path.iterdir()) == [folder, folder.with_name(folder.name + HELD)]
    with pytest.raises(ValueError, match="of the block"), scratch(folder=tmp_path):
        raise ValueError("of the block")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_goes_and_what_is_in_use_stays(tmp_path: Path) -> None:
    (killed, left), (alive, used) = _holding(tmp_path), _holding(tmp_path)
    within, inner = _holding(left)
    (tmp_path / "vilam3-notes").mkdir()  # not one of ours: no file is beside it
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert sweep(tmp_path) == [], "it may be about to be locked"
        _age(tmp_path)
        assert sweep(tmp_path) == [], "another process still works within it"
        assert (inner / "study").exists()
        within.send_signal(signal.SIGKILL)
        within.wait()
        assert sweep(tmp_path) == [left]
    finally:
        for process in (killed, alive, within):
            process.kill()
            process.communicate()
    assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([used.name, used.name + HELD, "vilam3-notes"])
    assert (used / "study").exists()

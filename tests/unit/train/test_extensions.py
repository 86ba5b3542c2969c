"""Locks of torch's extension compiler, taken by real processes."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vilam3.train.extensions import FOLDER_VARIABLE, release_stale_locks

HOLDS = """
import sys, time
from torch.utils.file_baton import FileBaton
assert FileBaton(sys.argv[1]).try_acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    (tmp_path / "py311_cpu" / "fused_adam").mkdir(parents=True)
    return tmp_path / "py311_cpu" / "fused_adam" / "lock"


@pytest.fixture
def holder(lock: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that compiles, as far as its lock is concerned."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(lock)], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_is_removed_once_its_process_was_killed_and_not_before(
    holder: "subprocess.Popen[str]", lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(lock.parents[1]))
    assert release_stale_locks() == ()
    assert lock.is_file()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert release_stale_locks() == (lock,)
    assert not lock.exists()


def test_without_extensions_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert release_stale_locks(tmp_path / "none") == ()

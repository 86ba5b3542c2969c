"""Processes known by pid and start, so that a pid that was given out again is never mistaken for ours."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from vilam3.artifacts import write_json
from vilam3.errors import ClusterError

SAME_START_S = 0.05  # the kernel counts in hundredths of a second
POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A process that ran once; `started_s` is its start as the system tells it."""

    pid: int
    started_s: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that has `pid` now.

        Raises:
            ClusterError: There is none.
        """
        try:
            return cls(pid=pid, started_s=psutil.Process(pid).create_time())
        except psutil.NoSuchProcess as gone:
            raise ClusterError(f"process {pid}: it ended at once; its log says why") from gone

    @property
    def process(self) -> psutil.Process | None:
        """The process, while it is this one and has not ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_s) <= SAME_START_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def write(self, file: Path) -> None:
        """Write it whole."""
        write_json(file, {"pid": self.pid, "started_s": self.started_s})


def descendants(identity: Identity) -> list[Identity]:
    """The processes below `identity` now, nearest first."""
    process = identity.process
    try:
        below = process.children(recursive=True) if process else []
        return [Identity(pid=child.pid, started_s=child.create_time()) for child in below]
    except psutil.NoSuchProcess:
        return []


def end(identities: Sequence[Identity], *, grace_s: float) -> None:
    """Ask the processes to end, wait, and kill what is left; returns when none is there.

    Raises:
        ClusterError: A process survives being killed.
    """
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
        for identity in identities:
            if identity.process is not None:
                _send(identity.pid, number)
        if _all_gone(identities, patience_s=patience_s):
            return
    left = ", ".join(str(identity.pid) for identity in identities if identity.process is not None)
    raise ClusterError(f"processes {left}: still there {grace_s:.0f} s after SIGKILL; look at /proc/PID/stack")


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _all_gone(identities: Sequence[Identity], *, patience_s: float) -> bool:
    until = time.monotonic() + patience_s
    while any(identity.process is not None for identity in identities):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True

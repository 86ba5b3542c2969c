"""Keeps a cluster's programs running until told to stop: ``python -m infra.cluster.supervise ROOT``.

Where a node is run it is the first process of a pid namespace, so it reaps whoever is orphaned there. Its children die
with it, however it dies: with the namespace, or by the signal that each of them asked the kernel for.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.cluster.layout import Layout
from infra.cluster.plan import Child, Plan
from vilam3.artifacts import write_json

POLL_S = 0.1
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 10.0
CALM_S = 60.0  # after so long, an end counts as the first again
GRACE_S = 8.0  # for a child, before it is killed


@dataclass(slots=True, kw_only=True)
class Running:
    """A child and its life so far; `started_s` is the start of its process as the system tells it."""

    child: Child
    process: "subprocess.Popen[bytes] | None" = None
    began_s: float = 0.0
    started_s: float = 0.0
    due_s: float = 0.0
    starts: int = 0
    delay_s: float = FIRST_DELAY_S
    exit_code: int | None = None


class Supervisor:
    """Starts children in order, starts them again when they end, and stops them in reverse order."""

    def __init__(self, children: Sequence[Child], *, layout: Layout) -> None:
        """Nothing is started yet."""
        self.running = [Running(child=child) for child in children]
        self.layout = layout
        self.stopping = False

    def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        while not self.stopping:
            ended = self._reap()
            started = [running for running in self.running if self._start_if_due(running)]
            if ended or started:
                self._report()
            time.sleep(POLL_S)
        self._end_all()

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _start_if_due(self, running: Running) -> bool:
        if running.process is not None or time.monotonic() < running.due_s:
            return False
        log = self.layout.logs / f"{running.child.name}.log"
        with log.open("ab") as stream:
            running.process = subprocess.Popen(  # noqa: S603 - the plan's own command lines
                running.child.command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=os.environ | running.child.environment,
                cwd="/",
            )
        running.began_s, running.started_s = time.monotonic(), psutil.Process(running.process.pid).create_time()
        running.starts += 1
        return True

    def _reap(self) -> bool:
        """Take note of every process that has ended, ours and orphans; whether one of ours has."""
        ended = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            for running in self.running:
                if running.process is not None and running.process.pid == pid:
                    self._note_end(running, exit_code=os.waitstatus_to_exitcode(status))
                    ended = True

    def _note_end(self, running: Running, *, exit_code: int) -> None:
        assert running.process is not None
        running.process.returncode = running.exit_code = exit_code  # it was waited for here
        running.process = None
        calm = time.monotonic() - running.began_s > CALM_S
        running.delay_s = FIRST_DELAY_S if calm else min(running.delay_s * 2, LONGEST_DELAY_S)
        running.due_s = time.monotonic() + running.delay_s

    def _end_all(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for running in reversed(self.running):
                if running.process is not None:
                    os.kill(running.process.pid, number)
            until = time.monotonic() + GRACE_S
            while any(running.process for running in self.running) and time.monotonic() < until:
                self._reap()
                time.sleep(POLL_S)

    def _report(self) -> None:
        states = [
            {
                "name": running.child.name,
                "pid": running.process.pid if running.process else None,
                "started_s": running.started_s,
                "starts": running.starts,
                "exit_code": running.exit_code,
            }
            for running in self.running
        ]
        write_json(self.layout.processes, {"processes": states})


def main(root: Path) -> None:
    """Run the plan that lies in `root`."""
    layout = Layout(root)
    plan = Plan.read(layout.plan)
    for command in plan.setup:
        subprocess.run(command, check=True)  # noqa: S603 - the plan's own command lines
    Supervisor(plan.children, layout=layout).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

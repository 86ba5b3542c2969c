"""Processes of ours that belong together: started one after the other, ended together, each by its own id.

They also end where this process is killed and can end nobody.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from serving import tethered
from vilam3.errors import ClusterError

READY_S = 300.0
LEAVE_S = 900.0  # as long as an answer or an expert may take
LOOK_EVERY_S = 0.2
READY = "ready"


@dataclass(slots=True, kw_only=True)
class Member:
    """One process.

    Attributes:
        name: In messages.
        process: Itself.
        is_ready: Set once it has said so.
    """

    name: str
    process: subprocess.Popen[str]
    is_ready: threading.Event = field(default_factory=threading.Event)

    def listen(self) -> None:
        """Read what it prints, in a thread of its own."""
        threading.Thread(target=self._read, name=f"output of {self.name}", daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                if line.startswith(READY):
                    self.is_ready.set()


class Fleet:
    """Starts processes and sees to it that none outlives the others; use as a context manager."""

    def __init__(self) -> None:
        """Begin with none."""
        self._members: list[Member] = []

    def __enter__(self) -> Self:
        """Use it within a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End them all, the last one first, and wait for what they still answer."""
        for member in reversed(self._members):
            if member.process.poll() is None:
                member.process.send_signal(signal.SIGTERM)
            try:
                member.process.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()

    def start(self, name: str, words: Sequence[str], *, environment: Mapping[str, str] | None = None) -> Member:
        """Start ``vilam3`` with these words."""
        return self.run(name, [sys.executable, "-m", "vilam3", *words], environment=environment)

    def run(self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> Member:
        """Start a program; its log goes where ours goes."""
        process = subprocess.Popen(  # noqa: S603 - our own programs
            tethered.words(command),
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C on the terminal comes to us alone, who end them in order
        )
        member = Member(name=name, process=process)
        self._members.append(member)
        member.listen()
        return member

    def await_ready(self, member: Member) -> None:
        """Wait until a process says that it is ready.

        Raises:
            ClusterError: it ended, or does not get ready.
        """
        end = time.monotonic() + READY_S
        while not member.is_ready.wait(LOOK_EVERY_S):
            self.check()
            if time.monotonic() > end:
                raise ClusterError(f"{member.name}: not ready within {READY_S:g} s; its log is above")

    def check(self) -> None:
        """See that all of them run.

        Raises:
            ClusterError: one has ended.
        """
        for member in self._members:
            if member.process.poll() is not None:
                raise ClusterError(f"{member.name}: ended with code {member.process.returncode}; its log is above")

    def watch(self, stop: threading.Event) -> None:
        """Until told to stop.

        Raises:
            ClusterError: one has ended before.
        """
        while not stop.wait(LOOK_EVERY_S):
            self.check()


@contextlib.contextmanager
def until_told() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def told(*_: Any) -> None:  # noqa: ANN401 - of the signal module
        stop.set()

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_ports(count: int) -> list[int]:
    """Ports of loopback on which nobody listens."""
    with contextlib.ExitStack() as opened:
        probes = [opened.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]

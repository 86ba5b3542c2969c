"""Starts server processes on a free port and ends each by its own id."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

READY_S = 600.0  # an upper bound: a busy machine takes minutes to import what a server needs
LEAVE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running server.

    Attributes:
        url: Where it listens.
        process: Itself.
        out: Its standard output.
        err: Its standard error, the log.
    """

    url: str
    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def begun_experts(self) -> int:
        """How many experts the log says have begun."""
        return self.err.read_text().count("expert begins")


@contextlib.contextmanager
def served(
    folder: Path, command: Sequence[str], *, environment: Mapping[str, str] | None = None, port: str = ""
) -> Iterator[Served]:
    """Run ``python -m <command> ...`` with PORT replaced by a free port until it says that it is ready."""
    port = port or str(_free_port())
    out, err = folder / "out", folder / "err"
    words = [sys.executable, "-m", *(word.replace("PORT", port) for word in command)]
    with out.open("wb") as output, err.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            words, stdout=output, stderr=log, env={**os.environ, **(environment or {})}
        )
    running = Served(url=f"http://127.0.0.1:{port}", process=process, out=out, err=err)
    try:
        _wait_until_ready(running)
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def slowest_probe_s(url: str, *, for_s: float) -> float:
    """The longest a readiness probe took, asked over and over."""
    slowest, end = 0.0, time.monotonic() + for_s
    with httpx.Client(trust_env=False) as client:
        client.get(f"{url}/v2/health/ready")
        while time.monotonic() < end:
            started = time.perf_counter()
            assert client.get(f"{url}/v2/health/ready").status_code == httpx.codes.OK
            slowest = max(slowest, time.perf_counter() - started)
            time.sleep(0.02)
    return slowest


def _wait_until_ready(running: Served) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        if "ready" in running.out.read_text():
            return
        assert running.process.poll() is None, running.err.read_text()
        time.sleep(0.1)
    raise AssertionError(f"not ready within {READY_S} s: {running.err.read_text()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

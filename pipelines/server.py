"""A server of our own for the time of a block: on a free loopback port, ended with the block and with this process."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from vilam3.errors import EngineError

READY_S = 120.0
END_S = 20.0
POLL_S = 0.25
# The kernel sends SIGTERM when the starter ends, however it ends; exec keeps that.
TIED = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); os.execv(sys.executable, "
    "[sys.executable, '-m', 'vilam3', *sys.argv[1:]])"
)


@contextlib.contextmanager
def served(model: Path, *, experts: Path, log: Path) -> Iterator[str]:
    """Serve a model and its experts; yields the address once it is ready.

    Raises:
        EngineError: it did not become ready.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = ["serve", "--model", str(model), "--experts", str(experts), "--port", str(port)]
    with (
        log.open("w", encoding="utf-8") as told,
        subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-c", TIED, *arguments], stdout=told, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            _wait_until_ready(process, url, log)
            yield url
        finally:
            _end(process)


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    with httpx.Client(base_url=url, timeout=2.0, trust_env=False) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise EngineError(f"the server ended with code {process.returncode}; what it said is in {log}")
            with contextlib.suppress(httpx.HTTPError):
                if client.get("/v1/models").is_success:
                    return
            time.sleep(POLL_S)
    raise EngineError(f"the server was not ready within {READY_S:.0f} s; what it said is in {log}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

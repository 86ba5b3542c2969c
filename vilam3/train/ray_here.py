"""A Ray of our own on this machine, for as long as it is needed: reached from here alone, and only with its token.

It is started by Ray's own command with every port named. A raylet that is to find out the ports of its agents waits 15
seconds for them and then dies (ray-project/ray#65983); on a busy machine they take longer. Knows nothing of training.
"""

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from vilam3.errors import PrerequisiteError

HOST = "127.0.0.1"
OBJECT_STORE_BYTES = 128 << 20  # nothing large is carried
READY, READY_S = b"Ray runtime started", 600.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PORTS = (
    "port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "metrics-export-port",
    "runtime-env-agent-port",
)
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "600", "RAY_AUTH_MODE": "token"}


@contextlib.contextmanager
def ray_here(*, cpus: int) -> Iterator[str]:
    """Start it, yield its address, and end it; it ends with this process too, however that ends.

    Raises:
        PrerequisiteError: it does not start.
    """
    for name, value in {**SETTINGS, "RAY_AUTH_TOKEN": secrets.token_hex(32)}.items():
        os.environ.setdefault(name, value)
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    options = {
        **ports,
        "node-ip-address": HOST,
        "num-cpus": cpus,
        "object-store-memory": OBJECT_STORE_BYTES,
        "include-dashboard": "false",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *words]
    with tempfile.TemporaryDirectory(prefix="vilam3-ray-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - Ray's own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - one call of the kernel, before anything else runs
            )
        try:
            _wait(process, log)
            yield f"{HOST}:{ports['port']}"
        finally:
            process.terminate()
            process.wait(60)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + READY_S
    while READY not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > end:
            said = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise PrerequisiteError(f"ray: does not start on this machine {said}; look in /tmp/ray/session_latest/logs")
        time.sleep(0.2)

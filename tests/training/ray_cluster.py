"""A Ray of a test's own, as the head of a Ray job's cluster would be; ended with everything that it started.

A raylet waits 15 seconds for its agent to write down the port that it was told to listen on, and then dies
(ray-project/ray#65983). Where tests share a machine that is too short, so the port is written down here beforehand.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from tests.unit.serving.live import free_port

READY, READY_S = b"Ray runtime started", 1800.0
NAMED = ("dashboard-agent-grpc-port", "metrics-export-port", "runtime-env-agent-port")
AWAITED = "dashboard_agent_listen_port"


@contextlib.contextmanager
def ray_cluster(*, cpus: int, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Start it; yields what its clients need in their environment."""
    folder = Path(tempfile.mkdtemp(prefix="vr-", dir="/tmp"))
    told = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": str(int(READY_S)),
        "RAY_worker_register_timeout_seconds": str(
            int(READY_S)
        ),  # else the first driver waits for ever for one given up
    }
    port, listens = free_port(), free_port()
    words = [f"--{name}={free_port()}" for name in NAMED]
    words += [f"--port={port}", f"--dashboard-agent-listen-port={listens}", f"--num-cpus={cpus}"]
    words += [f"--temp-dir={folder}", "--object-store-memory=134217728", "--include-dashboard=false"]
    log = folder / "start.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - Ray's own command
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *words],
            stdout=output,
            stderr=output,
            env={**os.environ, **environment, **told},
        )
    threading.Thread(target=_write_down, args=(process.pid, folder, listens), daemon=True).start()
    try:
        end = time.monotonic() + READY_S
        while READY not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.5)
        (address,) = {line.split("'")[1] for line in log.read_text().splitlines() if "--address='" in line}
        yield {**told, "RAY_ADDRESS": address}
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _write_down(pid: int, folder: Path, port: int) -> None:
    """The port of each raylet's agent, as soon as the raylet is there."""
    written: set[str] = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        starter = psutil.Process(pid)
        while starter.is_running() and not written:
            for child in starter.children(recursive=True):
                nodes = [word for word in _words(child) if word.startswith(("--node-id=", "--node_id="))]
                for node in {word.partition("=")[2] for word in nodes} - written:
                    for session in folder.glob("session_2*"):
                        (session / f"{AWAITED}_{node}").write_text(str(port))
                        written.add(node)
            time.sleep(0.1)


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _end(process: "subprocess.Popen[bytes]") -> None:
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def lose_head(environment: Mapping[str, str]) -> None:
    """Kill the head's own processes at once, as the loss of its machine would."""
    port = environment["RAY_ADDRESS"].rpartition(":")[2]
    heads = [one for one in psutil.process_iter() if f"--gcs_server_port={port}" in _words(one)]
    assert heads, f"no head listens on port {port}"
    for head in heads:
        starter = head.parent()
        assert starter is not None
        for process in [*starter.children(recursive=True), starter]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

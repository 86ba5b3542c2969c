"""KServe's own router, the program that a cluster runs for an InferenceGraph, on this machine.

The program is built from the modules that ``infra/tools`` pins, or given in VILAM3_KSERVE_ROUTER.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

PROGRAM_VARIABLE = "VILAM3_KSERVE_ROUTER"
PORT = 8080  # it knows no other
READY_S = 30.0
ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def routed(graph: Mapping[str, Any], log: Path) -> Iterator[str]:
    """Run the router on a manifest; yields its address. Skips the test where it cannot run, and says why."""
    program = _program()
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"port {PORT} is taken, and KServe's router listens on no other")
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - built from pinned modules
            [program, "--graph-json", json.dumps(graph["spec"])], stdout=output, stderr=output
        )
    try:
        _wait_until_ready(process, log)
        yield f"http://127.0.0.1:{PORT}"
    finally:
        process.kill()  # told to end, it would sleep for half a minute first
        process.wait()


def _program() -> str:
    given = os.environ.get(PROGRAM_VARIABLE)
    if given:
        return given
    if not (ROOT / "infra" / "cluster").is_dir():
        pytest.skip(f"KServe's router is not built here; name one in {PROGRAM_VARIABLE}")
    command = [sys.executable, "-m", "infra.cluster", "tool", "kserve-router"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if found.returncode:
        pytest.skip(f"KServe's router cannot be built here: {found.stderr.strip().splitlines()[-1:]}")
    return found.stdout.strip().splitlines()[-1]


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{PORT}/readyz", trust_env=False).is_success:
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"the router is not ready within {READY_S} s: {log.read_text()}")

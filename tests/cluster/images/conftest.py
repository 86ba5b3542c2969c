"""Images that were built here, and a network for their containers; without them this tier says what is missing."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest

from infra.images import buildah, builder
from infra.images.catalogue import REGISTRY, find
from infra.images.container import Network, network

READY_S = 600
POLL_S = 1.0
PROGRAMS = ("buildah", "runc", "ip", "nsenter")


@pytest.fixture(scope="session", autouse=True)
def _machine() -> None:
    if os.geteuid() != 0:
        pytest.skip("containers are started by runc as root")
    if absent := [program for program in PROGRAMS if which(program) is None]:
        pytest.skip(f"not on PATH: {', '.join(absent)}; apt-get install buildah runc iproute2 util-linux")


@pytest.fixture(scope="module")
def inside(_machine: None) -> Iterator[Network]:
    """Where the containers of a module meet."""
    with network() as made:
        yield made


def built(role: str) -> str:
    """Reference of an image in buildah's storage; skips where it has not been built."""
    name = find(role).name(REGISTRY)
    if not buildah.has(name) and builder.store().has(name):
        buildah.pull(name, builder.store())
    if not buildah.has(name):
        pytest.skip(f"{name} is not built: python -m infra.images --registry {REGISTRY} build {role}")
    return name


def wait_for(port: int, *, inside: Network, server: "subprocess.Popen[bytes]", log: Path, path: str = "") -> None:
    """Until `port` takes connections in the network, or answers a GET of `path`; fails when the server ends before."""
    probe = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}{path}')"
    test = ["python3", "-c", probe] if path else ["bash", "-c", f": < /dev/tcp/127.0.0.1/{port}"]
    command = ["nsenter", f"--net={inside.path}", *test]
    until = time.monotonic() + READY_S
    while subprocess.run(command, capture_output=True, check=False).returncode:  # noqa: S603 - our own words
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(POLL_S)

"""A node's container runtime takes the archives of the store: an environment once, and then our program alone."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which

import pytest

from infra.images import builder, debian
from infra.images.catalogue import REGISTRY, find
from tests.cluster.images.conftest import built

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
READY_S = 300
CONFIGURATION = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{folder}/socket"
"""
MOST_THIN_BYTES = 50_000_000

Ctr = Callable[..., str]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Gone after the test: gigabytes lie in it."""
    with tempfile.TemporaryDirectory(prefix="vilam3-node-") as made:
        yield Path(made)


@pytest.fixture
def ctr(folder: Path) -> Iterator[Ctr]:
    """The command line of a containerd of this test's own."""
    if which("containerd") is None:
        pytest.skip("containerd is not on PATH: apt-get install containerd")

    def call(*words: str) -> str:
        command = ["ctr", f"--address={folder}/socket", "--namespace=k8s.io", *words]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    configuration = folder / "config.toml"
    configuration.write_text(CONFIGURATION.format(folder=folder))
    command = ["containerd", f"--config={configuration}"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:  # noqa: S603 - our own words
        try:
            _wait_for(folder / "socket", server=server)
            yield call
        finally:
            server.terminate()
            server.wait(READY_S)


def _wait_for(socket: Path, *, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + READY_S
    while not socket.exists():
        assert server.poll() is None
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_node_that_has_the_environment_takes_the_program_alone(ctr: Ctr, folder: Path) -> None:
    image, store = find("ops"), builder.store()
    name, environment = built("ops"), image.environment(debian.reference())
    ctr("images", "import", str(store.write_archive(environment, out=folder / "environment.tar")))
    thin = store.write_archive(name, out=folder / "thin.tar", without=environment)
    assert thin.stat().st_size < MOST_THIN_BYTES
    ctr("images", "import", str(thin))
    assert name in ctr("images", "list", "--quiet").split()
    assert name.startswith(REGISTRY)
    seen = folder / "seen"
    seen.mkdir()
    ctr("images", "mount", name, str(seen))
    try:
        assert (seen / "app" / "bin" / "vilam3").exists()
        assert (seen / "opt" / "venv" / "bin" / "python").is_symlink()
    finally:
        ctr("images", "unmount", "--rm", str(seen))

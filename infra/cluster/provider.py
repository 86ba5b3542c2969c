"""What every provider of a cluster can do, and which one a machine gets."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from infra.cluster.plan import Level
from vilam3.errors import PrerequisiteError

ProviderName = Literal["auto", "kind", "local", "existing"]
PROVIDERS: tuple[ProviderName, ...] = ("auto", "kind", "local", "existing")
DOCKER_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What there is of a cluster; `lines` are for a reader."""

    up: bool
    lines: tuple[str, ...]


class Provider(Protocol):
    """Brings a cluster up and down behind one kubeconfig."""

    kubeconfig: Path

    def up(self, level: Level) -> None:
        """Bring the cluster up to `level`; harmless when it is there."""

    def down(self) -> None:
        """Remove the cluster and everything that it left; harmless when there is none."""

    def status(self) -> Status:
        """What runs."""

    def load_image(self, archive: Path) -> list[str]:
        """Make an image archive (OCI or docker) known to the node and return the images' names."""


def choose(name: ProviderName, *, level: Level) -> ProviderName:
    """Resolve ``auto``: kind where docker answers, else what this machine can build and run by itself.

    Raises:
        PrerequisiteError: Neither is possible here.
    """
    if name != "auto":
        return name
    if level == "api" and shutil.which("go"):
        return "local"  # needs neither docker nor root
    if docker_answers() and shutil.which("kind"):
        return "kind"
    if platform.system() == "Linux" and os.geteuid() == 0 and shutil.which("go"):
        return "local"
    raise PrerequisiteError(
        "no way to a cluster here: start docker and install kind, or be root on Linux with Go (PROVIDER=local), "
        "or use the cluster of your current context (PROVIDER=existing)"
    )


def docker_answers() -> bool:
    """Whether there is a docker daemon that we may talk to."""
    if shutil.which("docker") is None:
        return False
    try:
        asked = subprocess.run(["docker", "info"], capture_output=True, timeout=DOCKER_TIMEOUT_S, check=False)  # noqa: S607 - of this machine
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0

"""The provider for machines with docker: kind (kind.sigs.k8s.io); same archives, same kubeconfig as the local one.

It has not been run where this was written, since there is no docker there.
"""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.cluster import manifests, tools
from infra.cluster.plan import OPERATORS, Level
from infra.cluster.provider import Status
from vilam3.errors import ClusterError, NotFoundError, PrerequisiteError

NAME = "vilam3"
READY_TIMEOUT = "300s"
SHOWN_LINES = 12
DOCKER_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A cluster of one node in a container."""

    kubeconfig: Path
    say: Callable[[str], None]

    def up(self, level: Level, *, operators: Sequence[str] = OPERATORS) -> None:
        """Create the cluster with the same Kubernetes that the local provider builds; every level has a node here.

        Raises:
            PrerequisiteError: docker does not answer, or kind is absent, or the level is none of kind's.
        """
        if level == "simulated":
            raise PrerequisiteError("level simulated: kind has no such nodes; it needs Go, and PROVIDER=local")
        if not docker_answers() or shutil.which("kind") is None:
            raise PrerequisiteError("PROVIDER=kind: needs a docker that answers, and kind on PATH")
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        if NAME not in self._clusters():
            self.say("creating the cluster with kind ...")
            self._kind(["create", "cluster", *self._named(), f"--image={node_image()}", f"--wait={READY_TIMEOUT}"])
        self._kind(["export", "kubeconfig", *self._named()])
        manifests.apply_custom_resources(self.kubeconfig, say=self.say)
        if level == "full":
            self.say(
                f"kind: install {', '.join(operators)} as docs/cluster.md says; they are not built into images here"
            )

    def down(self) -> None:
        """Delete the cluster."""
        if NAME in self._clusters():
            self._kind(["delete", "cluster", *self._named()])
        self.kubeconfig.unlink(missing_ok=True)

    def status(self) -> Status:
        """Whether kind knows the cluster."""
        up = NAME in self._clusters()
        return Status(up=up, lines=(f"kind cluster {NAME}" if up else "no cluster",))

    def load_image(self, archive: Path) -> list[str]:
        """Load an archive into the node.

        Raises:
            NotFoundError: There is no such file.
        """
        if not archive.is_file():
            raise NotFoundError(f"image archive {archive}: no such file; make image writes them")
        self._kind(["load", "image-archive", str(archive), f"--name={NAME}"])
        return []

    def _named(self) -> list[str]:
        return [f"--name={NAME}", f"--kubeconfig={self.kubeconfig}"]

    def _clusters(self) -> list[str]:
        return self._kind(["get", "clusters"]).split() if shutil.which("kind") else []

    def _kind(self, arguments: Sequence[str]) -> str:
        ran = subprocess.run(["kind", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607 - of this machine
        if ran.returncode:
            last = "\n".join(ran.stderr.splitlines()[-SHOWN_LINES:])
            raise ClusterError(f"kind {' '.join(arguments[:2])} failed; its last words:\n{last}")
        return ran.stdout


def docker_answers() -> bool:
    """Whether there is a docker daemon that we may talk to."""
    if shutil.which("docker") is None:
        return False
    try:
        asked = subprocess.run(["docker", "info"], capture_output=True, timeout=DOCKER_TIMEOUT_S, check=False)  # noqa: S607 - of this machine
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0


def node_image() -> str:
    """Kind's node image of the Kubernetes that is pinned."""
    return f"kindest/node:{tools.version('kubelet')}"

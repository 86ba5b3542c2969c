"""The provider for a cluster that is there already: the current context, for who has said that it may be used."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.cluster.plan import Level
from infra.cluster.provider import Status
from vilam3.errors import ClusterError, PrerequisiteError, UserError

CONFIRMATION = "VILAM3_USE_CURRENT_CONTEXT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """The cluster of the current context; nothing is started, installed or removed."""

    kubeconfig: Path
    say: Callable[[str], None]

    def up(self, level: Level, *, operators: Sequence[str] = ()) -> None:
        """Write the current context alone into our kubeconfig.

        Args:
            level: Nothing is brought to it: what the cluster has is what there is.
            operators: As little.

        Raises:
            UserError: The confirmation is missing or names another context.
        """
        context = self._kubectl("config", "current-context").strip()
        if os.environ.get(CONFIRMATION) != context:
            raise UserError(f"PROVIDER=existing: would use the context {context}; confirm by {CONFIRMATION}={context}")
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        minified = self._kubectl("config", "view", "--minify", "--flatten")
        with os.fdopen(os.open(self.kubeconfig, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(minified)
        self.say(
            f"using {context} as it is; level {level} is not checked, nor for {', '.join(operators) or 'operators'}"
        )

    def down(self) -> None:
        """Forget the cluster, which stays as it is."""
        self.kubeconfig.unlink(missing_ok=True)

    def status(self) -> Status:
        """Which server is used."""
        if not self.kubeconfig.exists():
            return Status(up=False, lines=("no cluster",))
        return Status(
            up=True, lines=tuple(self._kubectl("cluster-info", f"--kubeconfig={self.kubeconfig}").splitlines())
        )

    def load_image(self, archive: Path) -> list[str]:
        """Not for us to do.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"image archive {archive}: an existing cluster pulls; push it to the registry of image.registry"
        )

    def _kubectl(self, *arguments: str) -> str:
        if shutil.which("kubectl") is None:
            raise PrerequisiteError(
                "PROVIDER=existing: kubectl is not on PATH; install it, as your cluster's version asks"
            )
        ran = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607 - of this machine
        if ran.returncode:
            raise ClusterError(f"kubectl {' '.join(arguments[:2])}: {ran.stderr.strip()}")
        return ran.stdout

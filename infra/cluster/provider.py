"""What every provider of a cluster can do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from infra.cluster.plan import OPERATORS, Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What there is of a cluster; `lines` are for a reader."""

    up: bool
    lines: tuple[str, ...]


class Provider(Protocol):
    """Brings a cluster up and down behind one kubeconfig."""

    @property
    def kubeconfig(self) -> Path:
        """Where helm, kubectl and the tests find it."""

    def up(self, level: Level, *, operators: Sequence[str] = OPERATORS) -> None:
        """Bring the cluster up to `level`, `full` with these operators; harmless when it is there."""

    def down(self) -> None:
        """Remove the cluster and everything that it left; harmless when there is none."""

    def status(self) -> Status:
        """What runs."""

    def load_image(self, archive: Path) -> list[str]:
        """Make an image archive (OCI or docker) known to the node and return the images' names."""

"""Where a cluster keeps its files; everything but the kubeconfig's path is private to this package."""

from dataclasses import dataclass
from pathlib import Path

DEFAULT = Path("runs/cluster")


@dataclass(frozen=True, slots=True)
class Layout:
    """The folder of one cluster; `down` removes all of it but the logs."""

    root: Path

    @property
    def kubeconfig(self) -> Path:
        """For helm, kubectl and the tests; its user may do anything."""
        return self.root / "kubeconfig"

    @property
    def provider(self) -> Path:
        """The name of the provider that brought the cluster up."""
        return self.root / "provider"

    @property
    def lock(self) -> Path:
        """Held by the one `up`, `down` or `load-image` that is going on."""
        return self.root / ".lock"

    @property
    def logs(self) -> Path:
        """One file for each program; kept for reading after `down`."""
        return self.root / "logs"

    @property
    def state(self) -> Path:
        """All that `down` removes."""
        return self.root / "state"

    @property
    def certificates(self) -> Path:
        """Authorities, certificates, keys and the components' kubeconfigs."""
        return self.state / "certificates"

    @property
    def config(self) -> Path:
        """Configuration files of the components, written by `up`."""
        return self.state / "config"

    @property
    def data(self) -> Path:
        """What the components store: etcd's database, containers, volumes."""
        return self.state / "data"

    @property
    def plan(self) -> Path:
        """What is run, and in which place of the machine (`plan.Plan`)."""
        return self.state / "plan.json"

    @property
    def supervisor(self) -> Path:
        """The supervisor's pid and start, as the machine sees it."""
        return self.state / "supervisor.json"

    @property
    def processes(self) -> Path:
        """What the supervisor says of its children, by the pids that it sees."""
        return self.state / "processes.json"

    def create(self) -> None:
        """Make the folders, for the owner alone, since they hold keys."""
        for folder in (self.root, self.logs, self.state, self.certificates, self.config, self.data):
            folder.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)

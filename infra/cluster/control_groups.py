"""The control group below which everything of a node runs, in every hierarchy of this machine."""

import time
from collections.abc import Iterator
from pathlib import Path

from vilam3.errors import ClusterError

MOUNTS = Path("/proc/self/mounts")
KINDS = ("cgroup", "cgroup2")
INHERITED = ("cpuset.cpus", "cpuset.mems")  # version 1 leaves them empty in a new group, and then nothing may run in it
EMPTY_TIMEOUT_S = 20.0
POLL_S = 0.1


def create(name: str) -> None:
    """Make the group `name` in every hierarchy."""
    for hierarchy in hierarchies():
        group = hierarchy / name
        group.mkdir(exist_ok=True)
        for setting in INHERITED:
            if (group / setting).exists() and not (group / setting).read_text().strip():
                (group / setting).write_text((hierarchy / setting).read_text())


def remove(name: str) -> None:
    """Remove the group `name` and all below it; its processes have been ended.

    Raises:
        ClusterError: A group does not get empty.
    """
    until = time.monotonic() + EMPTY_TIMEOUT_S
    for hierarchy in hierarchies():
        while (hierarchy / name).exists() and not _removed(hierarchy / name):
            if time.monotonic() > until:
                raise ClusterError(f"{hierarchy / name}: still busy; see cgroup.procs in the folders below it")
            time.sleep(POLL_S)


def hierarchies() -> Iterator[Path]:
    """Where control groups are mounted: one place in version 2, one for each controller in version 1."""
    for line in MOUNTS.read_text("utf-8").splitlines():
        _, place, kind, *_ = line.split()
        if kind in KINDS:
            yield Path(place)


def _removed(group: Path) -> bool:
    """Remove `group` from its leaves up; False when one is busy."""
    try:
        for below in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            below.rmdir()
        group.rmdir()
    except FileNotFoundError:
        return not group.exists()
    except OSError:
        return False
    return True

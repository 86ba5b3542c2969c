"""What a cluster could leave behind on this machine, as a value to compare."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.cluster.node import PRIVATE, SHOWN_SYSCTLS

SYSCTLS = (*SHOWN_SYSCTLS, "net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet", "net/netfilter/nf_conntrack_max")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Everything shared that a node touches or could touch."""

    mounts: frozenset[str]
    namespaces: frozenset[str]
    interfaces: frozenset[str]
    routes: str
    rules: str
    groups: frozenset[str]
    sysctls: dict[str, str]
    folders: frozenset[str]


def observe() -> Machine:
    """The machine as it is now."""
    settings = {name: Path("/proc/sys") / name for name in SYSCTLS}
    return Machine(
        mounts=frozenset(Path("/proc/self/mounts").read_text().splitlines()),
        namespaces=_names(Path("/run/netns")),
        interfaces=_names(Path("/sys/class/net")),
        routes=_output("ip", "route"),
        rules=_output("iptables-save"),
        groups=frozenset(str(group) for group in Path("/sys/fs/cgroup").glob("*/*") if group.is_dir()),
        sysctls={name: file.read_text() for name, file in settings.items() if file.exists()},
        folders=frozenset(place for place in PRIVATE if Path(place).exists()),
    )


def processes(root: Path) -> list[str]:
    """Command lines of living processes that name `root`, the folder of a cluster."""
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(root) in line]


def _names(folder: Path) -> frozenset[str]:
    return frozenset(entry.name for entry in folder.iterdir()) if folder.exists() else frozenset()


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()  # noqa: S603 - of this machine
    return "\n".join(line for line in lines if not line.startswith("#"))  # comments carry the time

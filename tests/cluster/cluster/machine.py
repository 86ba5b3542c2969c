"""What a cluster could leave on this machine; others may be at work on it, so only what is ours is looked for."""

import shutil
import subprocess
from pathlib import Path

import psutil

from infra.cluster import network
from infra.cluster.node import OURS, PRIVATE, SHOWN_SYSCTLS

SYSCTLS = (*SHOWN_SYSCTLS, "net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet", "net/netfilter/nf_conntrack_max")


def settings() -> dict[str, str]:
    """The machine's own kernel settings and packet rules, which no cluster may change, not even while it is up."""
    files = {name: Path("/proc/sys") / name for name in SYSCTLS}
    told = {name: file.read_text() for name, file in files.items() if file.exists()}
    return told | {"rules": _output("iptables-save"), "rules6": _output("ip6tables-save")}


def traces(root: Path, *, name: str) -> list[str]:
    """Everything on this machine that belongs to the cluster in `root` whose node is called `name`."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    found = [mount for mount in mounts if str(root) in mount or f"/{name} " in mount]
    places = [network.NAMESPACES / name, network.INTERFACES / name, *Path("/sys/fs/cgroup").glob(f"*/{name}")]
    if not network.names():  # the last node takes the mount points of all away
        places += [Path(place) / OURS for place in PRIVATE]
    found += [str(place) for place in places if place.exists()]
    found += [line for line in _output("ip", "route").splitlines() if f"dev {name} " in f"{line} "]
    return found + processes(root)


def processes(root: Path) -> list[str]:
    """Command lines of living processes that name `root`, the folder of a cluster."""
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(root) in line]


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()  # noqa: S603 - of this machine
    # Comments carry the time, and chains the number of packets.
    return "\n".join(line for line in lines if not line.startswith(("#", ":")))

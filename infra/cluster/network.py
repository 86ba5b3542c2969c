"""The network of a node: a namespace of its own, joined to this machine by one pair of interfaces."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from infra.cluster.plan import Addresses
from vilam3.errors import ClusterError

NAMESPACES = Path("/run/netns")
INTERFACES = Path("/sys/class/net")
SLOTS = 32
PREFIX_LENGTH = 24


def create() -> Addresses:
    """Make the network of the first free slot and say its addresses.

    This machine reaches the node, its pods and its services by routes over the pair of interfaces; the node's default
    route leads here, where nothing is forwarded.

    Raises:
        ClusterError: All slots are taken, or the kernel refused.
    """
    for slot in range(SLOTS):
        addresses = Addresses.of_slot(slot)
        if not (INTERFACES / addresses.name).exists() and _claimed(addresses.name):
            for command in commands(addresses):
                _ip(command)
            return addresses
    raise ClusterError(f"all {SLOTS} networks vilam3-0 to vilam3-{SLOTS - 1} are taken; see ip netns list")


def commands(addresses: Addresses) -> list[list[str]]:
    """The arguments of ``ip`` that furnish the namespace."""
    name = addresses.name
    inside = ["-n", name]
    return [
        ["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name],
        ["address", "add", f"{addresses.host}/{PREFIX_LENGTH}", "dev", name],
        ["link", "set", name, "up"],
        [*inside, "link", "set", "lo", "up"],
        [*inside, "address", "add", f"{addresses.node}/{PREFIX_LENGTH}", "dev", "eth0"],
        [*inside, "link", "set", "eth0", "up"],
        [*inside, "route", "add", "default", "via", addresses.host],
        ["route", "add", addresses.pods, "via", addresses.node, "dev", name],
        ["route", "add", addresses.services, "via", addresses.node, "dev", name],
    ]


def _claimed(name: str) -> bool:
    """Make the namespace; of several clusters that come up at once, one gets each name."""
    if (NAMESPACES / name).exists():
        return False
    try:
        _ip(["netns", "add", name])
    except ClusterError:
        if (NAMESPACES / name).exists():
            return False
        raise
    return True


def names() -> list[str]:
    """The networks of ours that there are on this machine."""
    possible = [Addresses.of_slot(slot).name for slot in range(SLOTS)]
    return [name for name in possible if (NAMESPACES / name).exists()]


def remove(name: str) -> None:
    """Remove the network `name` with its routes and rules; harmless when it is gone."""
    if (INTERFACES / name).exists():
        _ip(["link", "delete", name])
    if (NAMESPACES / name).exists():
        _ip(["netns", "delete", name])


def _ip(arguments: Sequence[str]) -> None:
    ran = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607 - iproute2 of this machine
    if ran.returncode:
        raise ClusterError(f"ip {' '.join(arguments)}: {ran.stderr.strip()}")

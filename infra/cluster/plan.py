"""What a local cluster consists of, as values that are written to a file and read back: addresses and programs."""

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Literal, Self

from vilam3.artifacts import write_json

Level = Literal["api", "simulated", "node", "full"]
LEVELS: tuple[Level, ...] = ("api", "simulated", "node", "full")
# What a cluster of a level can be used as. A pretended node runs no pod, and a real one is not a thousand.
SERVES: Mapping[Level, tuple[Level, ...]] = {
    "api": ("api",),
    "simulated": ("api", "simulated"),
    "node": ("api", "node"),
    "full": ("api", "node", "full"),
}
WITHOUT_NODE: tuple[Level, ...] = ("api", "simulated")
OPERATORS = ("kserve", "kuberay", "metrics", "kwok", "keda")  # of the level `full`, in the order of their installation
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the cluster is reached.

    Attributes:
        node: Address of the API server and of the node.
        host: This machine's address as the node sees it; the node's default route.
        pods: Range of the pods' addresses.
        services: Range of the services' virtual addresses.
        slot: Number of the cluster's network on this machine; -1 for loopback.
    """

    node: str
    host: str
    pods: str
    services: str
    slot: int
    api_port: int = 6443
    etcd_port: int = 2379
    etcd_peer_port: int = 2380

    @classmethod
    def loopback(cls) -> Self:
        """For an API server without nodes: this machine's loopback and ports that are free now."""
        api, etcd, peer = free_ports(3)
        return cls(
            node=LOOPBACK,
            host=LOOPBACK,
            pods="10.211.255.0/24",
            services="10.212.255.0/24",
            slot=-1,
            api_port=api,
            etcd_port=etcd,
            etcd_peer_port=peer,
        )

    @classmethod
    def of_slot(cls, slot: int) -> Self:
        """For a node in its own network, the `slot`-th of this machine."""
        return cls(
            node=f"10.210.{slot}.2",
            host=f"10.210.{slot}.1",
            pods=f"10.211.{slot}.0/24",
            services=f"10.212.{slot}.0/24",
            slot=slot,
        )

    @property
    def name(self) -> str:
        """Of the network namespace, the interface, the control group and the node."""
        return f"vilam3-{self.slot}"

    @property
    def api_url(self) -> str:
        """The API server's."""
        return f"https://{self.node}:{self.api_port}"

    @property
    def etcd_url(self) -> str:
        """The store's; on the loopback of whichever network the cluster is in."""
        return f"https://{LOOPBACK}:{self.etcd_port}"

    @property
    def api_service(self) -> str:
        """The virtual address under which pods reach the API server: the range's first."""
        return str(ip_network(self.services)[1])

    @property
    def dns_service(self) -> str:
        """The virtual address of the cluster's name server, by custom the tenth."""
        return str(ip_network(self.services)[10])


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A program that the supervisor keeps running."""

    name: str
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `up` decided on, for the supervisor, `status` and `down`.

    Attributes:
        level: How much of a cluster it is.
        addresses: Where it is reached.
        children: In the order of their start.
        setup: Commands that the supervisor runs before them, in its own namespaces.
    """

    level: Level
    addresses: Addresses
    children: Sequence[Child]
    setup: Sequence[Sequence[str]] = ()

    def write(self, file: Path) -> None:
        """Write it whole."""
        write_json(file, asdict(self))

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read back what `write` wrote."""
        told = json.loads(file.read_text("utf-8"))
        return cls(
            level=told["level"],
            addresses=Addresses(**told["addresses"]),
            children=[Child(**child) for child in told["children"]],
            setup=told["setup"],
        )


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on now; all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for held in sockets:
            held.bind((LOOPBACK, 0))
        return [int(held.getsockname()[1]) for held in sockets]
    finally:
        for held in sockets:
            held.close()

"""Where images may be fetched from. Nothing is unless the operator's environment lists it.

A URL comes from whoever asks a question, and whoever fetches it stands inside the hospital's network: so hosts, buckets
and the PACS are lists of the operator, and a listed host may still not lead into a private network unless that is
listed as well.
"""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass

from vilam3.errors import UserError

HOSTS_VARIABLE = "VILAM3_IMAGE_HOSTS"
NETWORKS_VARIABLE = "VILAM3_IMAGE_NETWORKS"
BUCKETS_VARIABLE = "VILAM3_IMAGE_BUCKETS"
SECONDS_VARIABLE = "VILAM3_IMAGE_SECONDS"
TOTAL_S = 120.0
DEFAULT_PORTS = {"http": 80, "https": 443}
NAT64 = ipaddress.ip_network("64:ff9b::/32")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Permits:
    """What may be fetched.

    Attributes:
        hosts: Names of web servers, such as ``images.example.org``, ``*.example.org`` or ``pacs.example.org:8443``;
            without a port those of HTTP and HTTPS are meant.
        networks: Private networks that a listed host may lead into.
        buckets: S3 buckets, or ``bucket/prefix``.
        total_s: Longest time for everything a request names.
    """

    hosts: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    buckets: tuple[str, ...] = ()
    total_s: float = TOTAL_S

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Permits":
        """Read the lists, separated by commas.

        Raises:
            UserError: a network or a number cannot be understood.
        """
        return cls(
            hosts=tuple(name.lower() for name in _listed(environment, HOSTS_VARIABLE)),
            networks=tuple(_network(text) for text in _listed(environment, NETWORKS_VARIABLE)),
            buckets=tuple(name.strip("/") for name in _listed(environment, BUCKETS_VARIABLE)),
            total_s=_seconds(environment.get(SECONDS_VARIABLE, "")),
        )

    def allows_host(self, host: str, *, port: int, scheme: str) -> bool:
        """Whether a web server may be asked."""
        name = host.lower().rstrip(".")
        return any(_matches(entry, name, port, DEFAULT_PORTS[scheme]) for entry in self.hosts)

    def allows_address(self, address: str) -> bool:
        """Whether a listed host may be at this address: a public one, or in a listed network."""
        found = ipaddress.ip_address(address.partition("%")[0])
        inner = getattr(found, "ipv4_mapped", None) or found
        if any(inner in network for network in self.networks):
            return True
        return inner.is_global and not inner.is_multicast and not _is_tunnel(inner)

    def allows_object(self, bucket: str, key: str) -> bool:
        """Whether an S3 object, or all below a prefix, may be read."""
        for entry in self.buckets:
            name, _, prefix = entry.partition("/")
            if name == bucket and (not prefix or key == prefix or key.startswith(f"{prefix}/")):
                return True
        return False


def _listed(environment: Mapping[str, str], variable: str) -> list[str]:
    return [entry.strip() for entry in environment.get(variable, "").split(",") if entry.strip()]


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise UserError(f"{NETWORKS_VARIABLE}={text}: not a network; write it like 10.1.0.0/16") from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text or TOTAL_S)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"{SECONDS_VARIABLE}={text}: not a time; write seconds above 0, such as 120")
    return seconds


def _matches(entry: str, name: str, port: int, default_port: int) -> bool:
    listed, colon, digits = entry.rpartition(":") if entry.rpartition(":")[2].isdigit() else (entry, "", "")
    if port != (int(digits) if colon else default_port):
        return False
    return name.endswith(listed[1:]) and name != listed[2:] if listed.startswith("*.") else name == listed.strip("[]")


def _is_tunnel(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """An IPv6 address in which an IPv4 one is hidden."""
    if isinstance(address, ipaddress.IPv4Address):
        return False
    return address in NAT64 or address.sixtofour is not None or address.teredo is not None

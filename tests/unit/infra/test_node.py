"""A node's files agree with its addresses, and what it changes is in namespaces of its own."""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml

from infra.cluster import api, network, node, node_files
from infra.cluster.certificates import Authority, Pair
from infra.cluster.layout import Layout
from infra.cluster.plan import Addresses
from vilam3.errors import ClusterError, PrerequisiteError


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An empty cluster folder."""
    made = Layout(tmp_path / "cluster")
    made.create()
    return made


def test_slots_share_no_address() -> None:
    slots = [Addresses.of_slot(slot) for slot in range(network.SLOTS)]
    ranges = [ip_network(text) for addresses in slots for text in (addresses.pods, addresses.services)]
    ranges += [ip_network(f"{addresses.host}/{network.PREFIX_LENGTH}", strict=False) for addresses in slots]
    assert not any(one.overlaps(other) for one in ranges for other in ranges if one is not other)


def test_of_two_clusters_that_come_up_at_once_each_gets_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another takes the first name between the look and the claim; the kernel gives it to one of them."""
    monkeypatch.setattr(network, "NAMESPACES", tmp_path)
    monkeypatch.setattr(network, "INTERFACES", tmp_path / "interfaces")

    def ip(arguments: Sequence[str]) -> None:
        if arguments[:3] == ["netns", "add", "vilam3-0"]:
            (tmp_path / "vilam3-0").touch()
            raise ClusterError("ip netns add vilam3-0: File exists")

    monkeypatch.setattr(network, "_ip", ip)
    assert network.create() == Addresses.of_slot(1)


def test_a_network_that_the_kernel_refuses_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "NAMESPACES", tmp_path)
    monkeypatch.setattr(network, "INTERFACES", tmp_path / "interfaces")

    def ip(_: Sequence[str]) -> None:
        raise ClusterError("ip netns add vilam3-0: Operation not permitted")

    monkeypatch.setattr(network, "_ip", ip)
    with pytest.raises(ClusterError, match="not permitted"):
        network.create()


def test_the_machine_is_given_routes_to_pods_and_services() -> None:
    addresses = Addresses.of_slot(4)
    commands = network.commands(addresses)
    assert commands[0][:3] == ["link", "add", "vilam3-4"]
    for reached in (addresses.pods, addresses.services):
        assert ["route", "add", reached, "via", "10.210.4.2", "dev", "vilam3-4"] in commands


def test_service_addresses_are_in_the_range_of_services() -> None:
    addresses = Addresses.of_slot(0)
    for address in (addresses.api_service, addresses.dns_service):
        assert ip_address(address) in ip_network(addresses.services)


def test_the_supervisor_is_first_in_its_namespaces() -> None:
    command = node.namespaces(Addresses.of_slot(1))
    assert command[:2] == ["nsenter", "--net=/run/netns/vilam3-1"]
    assert {"--mount", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"} <= set(command)


def test_no_file_leaves_a_name_to_be_filled_in(layout: Layout) -> None:
    files = _files(layout)
    assert "$" not in files.containerd.read_text()
    assert f'root = "{layout.data}/containerd"' in files.containerd.read_text()


def test_kubelet_and_pods_agree_with_the_addresses(layout: Layout) -> None:
    kubelet = yaml.safe_load(_files(layout).kubelet.read_text())
    assert kubelet["address"] == "10.210.2.2"
    assert kubelet["clusterDNS"] == ["10.212.2.10"]
    assert kubelet["cgroupRoot"] == "/vilam3-2"
    assert kubelet["authentication"]["anonymous"] == {"enabled": False}
    pods = node_files.network(Addresses.of_slot(2), data=layout.data)["plugins"][0]
    assert pods["ipam"]["ranges"] == [[{"subnet": "10.211.2.0/24"}]]


def test_the_proxy_leaves_the_machines_connection_limits_alone(layout: Layout) -> None:
    proxy = yaml.safe_load(_files(layout).proxy.read_text())
    assert set(proxy["conntrack"].values()) == {0, "0s"}


def test_a_user_without_rights_is_told_what_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(PrerequisiteError, match="run as root, or use --level api"):
        node.prerequisites()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(node, "CNI_FOLDERS", ())
    with pytest.raises(PrerequisiteError, match="apt-get install busybox-static containerd cont"):
        node.prerequisites()


def test_only_root_can_drop_roots_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert "--bounding-set" in api.confinement()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "--bounding-set" not in api.confinement()
    assert "--pdeathsig" in api.confinement()


def _files(layout: Layout) -> node_files.NodeFiles:
    authority = Authority.create(layout.certificates, name="authority")
    serving: Pair = authority.sign("vilam3-2", file="kubelet-server", hosts=["vilam3-2"])
    return node_files.write(
        layout,
        addresses=Addresses.of_slot(2),
        cni_programs=Path("/usr/lib/cni"),
        proxy_client=layout.certificates / "kube-proxy.kubeconfig",
        serving=serving,
        clients_authority=authority.files.certificate,
    )

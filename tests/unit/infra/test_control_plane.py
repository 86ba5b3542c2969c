"""Certificates name who may use them, and every program is given the files that were made for it."""

import base64
import ssl
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.cluster import control_plane, kubeconfig
from infra.cluster.certificates import Authority, Pair
from infra.cluster.layout import Layout
from infra.cluster.plan import Addresses, Child, Plan, free_ports


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An empty cluster folder."""
    made = Layout(tmp_path / "cluster")
    made.create()
    return made


def _read(pair: Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate.read_bytes())


def test_the_api_server_is_reached_by_every_name_it_has(layout: Layout) -> None:
    addresses = Addresses.of_slot(3)
    server = _read(control_plane.credentials(layout, addresses=addresses).server)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "kubernetes.default.svc.cluster.local" in names.get_values_for_type(x509.DNSName)
    told = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert told == {"127.0.0.1", "10.210.3.2", "10.212.3.1"}


def test_a_client_is_a_user_with_groups_and_no_server(layout: Layout) -> None:
    authority = Authority.create(layout.certificates, name="authority")
    client = _read(authority.sign("system:node:a", file="a", groups=["system:nodes"]))
    assert [name.value for name in client.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] == ["system:nodes"]
    usage = client.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    client.verify_directly_issued_by(authority.certificate)


def test_keys_are_their_owners_alone(layout: Layout) -> None:
    control_plane.credentials(layout, addresses=Addresses.of_slot(0))
    keys = list(layout.certificates.glob("*.key"))
    assert len(keys) == 6
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    assert layout.root.stat().st_mode & 0o777 == 0o700


def test_a_kubeconfig_holds_all_that_a_client_needs(layout: Layout) -> None:
    authority = Authority.create(layout.certificates, name="authority")
    client = authority.sign("administrator", file="administrator", groups=["system:masters"])
    file = kubeconfig.write(
        layout.kubeconfig, server="https://127.0.0.1:1", authority=authority.files.certificate, client=client
    )
    told = yaml.safe_load(file.read_text())
    assert told["current-context"] == told["contexts"][0]["name"]
    embedded = base64.b64decode(told["clusters"][0]["cluster"]["certificate-authority-data"]).decode()
    ssl.create_default_context(cadata=embedded)
    assert base64.b64decode(told["users"][0]["user"]["client-key-data"]) == client.key.read_bytes()


def test_every_file_on_a_command_line_is_there(layout: Layout) -> None:
    children = _children(layout, addresses=Addresses.of_slot(0))
    named = [value for child in children for value in _files(child)]
    assert len(named) > 15
    assert [value for value in named if not Path(value).exists()] == []


def test_the_store_takes_no_client_without_a_certificate(layout: Layout) -> None:
    etcd = next(child for child in _children(layout, addresses=Addresses.of_slot(0)) if child.name == "etcd")
    assert "--client-cert-auth" in etcd.command
    assert "--listen-client-urls=https://127.0.0.1:2379" in etcd.command


def test_on_loopback_no_endpoint_is_told_to_pods(layout: Layout) -> None:
    off = "--endpoint-reconciler-type=none"
    given = control_plane.credentials(layout, addresses=Addresses.of_slot(0))
    assert off in control_plane.apiserver_options(addresses=Addresses.loopback(), given=given)
    assert off not in control_plane.apiserver_options(addresses=Addresses.of_slot(0), given=given)


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20


def test_a_plan_is_read_back_as_it_was_written(layout: Layout) -> None:
    plan = Plan(
        level="node",
        addresses=Addresses.of_slot(7),
        children=[Child(name="a", command=["b", "--c"], environment={"D": "e"})],
        setup=[["mount", "x"]],
    )
    plan.write(layout.plan)
    assert Plan.read(layout.plan) == plan


def _children(layout: Layout, *, addresses: Addresses) -> list[Child]:
    given = control_plane.credentials(layout, addresses=addresses)
    programs = {name: Path("/bin/true") for name in control_plane.PROGRAMS}
    client = control_plane.client_kubeconfig(
        layout, addresses=addresses, authority=given.authority, user="system:kube-controller-manager"
    )
    return control_plane.children(layout, addresses=addresses, given=given, programs=programs, controllers=client)


def _files(child: Child) -> list[str]:
    values = [option.partition("=")[2] for option in child.command[1:]]
    return [value for value in values if value.startswith("/") and not value.endswith("/etcd")]

"""Nothing is fetched that the operator has not listed, and no listed name leads into a network that is not."""

import pytest

from vilam3.errors import UserError
from vilam3.sources.permits import BUCKETS_VARIABLE, HOSTS_VARIABLE, NETWORKS_VARIABLE, SECONDS_VARIABLE, Permits


def permits(**variables: str) -> Permits:
    return Permits.from_environment(variables)


def test_without_lists_nothing_is_allowed() -> None:
    nothing = permits()
    assert not nothing.allows_host("example.org", port=443, scheme="https")
    assert not nothing.allows_object("bucket", "key")


@pytest.mark.parametrize(
    ("host", "port", "scheme", "allowed"),
    [
        ("images.example.org", 443, "https", True),
        ("images.example.org", 80, "http", True),
        ("IMAGES.example.org.", 443, "https", True),
        ("images.example.org", 8443, "https", False),
        ("images.example.org", 443, "http", False),
        ("example.org", 443, "https", False),
        ("evil-images.example.org", 443, "https", False),
        ("images.example.org.evil.net", 443, "https", False),
        ("a.hospital.example", 443, "https", True),
        ("a.b.hospital.example", 443, "https", True),
        ("hospital.example", 443, "https", False),
        ("evilhospital.example", 443, "https", False),
        ("pacs.local", 8443, "https", True),
        ("pacs.local", 443, "https", False),
        ("::1", 9000, "http", True),
    ],
)
def test_hosts_are_matched_whole_and_by_port(host: str, port: int, scheme: str, allowed: bool) -> None:
    listed = permits(**{HOSTS_VARIABLE: "images.example.org, *.hospital.example,pacs.local:8443,[::1]:9000"})
    assert listed.allows_host(host, port=port, scheme=scheme) is allowed


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1",  # noqa: S104 - to be refused
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "::", "::1", "fe80::1%eth0", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)  # fmt: skip
def test_private_loopback_link_local_and_hidden_addresses_are_refused(address: str) -> None:
    assert not permits().allows_address(address)


def test_public_addresses_and_listed_networks_are_allowed() -> None:
    assert permits().allows_address("93.184.215.14")
    assert permits().allows_address("2606:2800:21f:cb07:6820:80da:af6b:8b2c")
    listed = permits(**{NETWORKS_VARIABLE: "10.1.0.0/16,::1/128"})
    assert listed.allows_address("10.1.2.3")
    assert listed.allows_address("::ffff:10.1.2.3")
    assert listed.allows_address("::1")
    assert not listed.allows_address("10.2.0.1")


@pytest.mark.parametrize(
    ("bucket", "key", "allowed"),
    [("open", "a/b.dcm", True), ("inbox", "ct/1.dcm", True), ("inbox", "ctx/1.dcm", False), ("other", "a", False)],
)
def test_buckets_may_be_listed_with_a_prefix(bucket: str, key: str, allowed: bool) -> None:
    assert permits(**{BUCKETS_VARIABLE: "open,inbox/ct"}).allows_object(bucket, key) is allowed


@pytest.mark.parametrize(
    "variables", [{NETWORKS_VARIABLE: "10.1.0.0/99"}, {SECONDS_VARIABLE: "soon"}, {SECONDS_VARIABLE: "0"}]
)
def test_a_list_that_is_not_understood_ends_the_start(variables: dict[str, str]) -> None:
    with pytest.raises(UserError, match=next(iter(variables))):
        permits(**variables)

"""What a URL may lead to, whatever its server does."""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.sources.hostile import CONTENT, Hostile, hostile_server
from vilam3.data.limits import Limits
from vilam3.errors import DataError, TooLargeError
from vilam3.sources.permits import HOSTS_VARIABLE, NETWORKS_VARIABLE, Permits
from vilam3.sources.web import download

LIMITS = Limits(max_bytes=1 << 20)


@pytest.fixture
def port() -> Iterator[int]:
    with hostile_server() as port:
        yield port


def permits(port: int, *, total_s: float = 20.0, networks: str = "127.0.0.0/8") -> Permits:
    listed = {HOSTS_VARIABLE: f"127.0.0.1:{port},files.test:{port}", NETWORKS_VARIABLE: networks}
    return replace(Permits.from_environment(listed), total_s=total_s)


def fetch(path: str, port: int, folder: Path, **more: Any) -> bytes:  # noqa: ANN401 - of permits
    target = folder / "target"
    url = path if ":" in path else f"http://127.0.0.1:{port}/{path}"
    download(url, target, permits=permits(port, **more), limits=LIMITS, where="image_url 1")
    return target.read_bytes()


def test_a_listed_host_in_a_listed_network_is_read(port: int, tmp_path: Path) -> None:
    assert fetch("scan.png?token=1", port, tmp_path) == CONTENT


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing", "HTTP 404"),
        ("moved", "moved elsewhere"),
        ("liar", "could not be read"),
        ("packed", "packed"),
        ("garbage", "could not be read"),
        ("empty", "empty"),
    ],
)
def test_broken_answers_are_the_callers_to_mend(port: int, tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        fetch(path, port, tmp_path)
    assert str(caught.value).startswith("image_url 1")
    assert len(Hostile.asked) == 1  # no redirect was followed


@pytest.mark.parametrize("path", ["declares-much", "sends-much"])
def test_more_bytes_than_allowed_are_refused_as_they_come(port: int, tmp_path: Path, path: str) -> None:
    with pytest.raises(TooLargeError, match="limit of 1 MiB"):
        fetch(path, port, tmp_path)


@pytest.mark.parametrize("path", ["drips", "drips-headers"])
def test_a_slow_host_is_left_in_time(port: int, tmp_path: Path, path: str) -> None:
    """Each byte comes soon enough for any timeout of a single read."""
    began = time.monotonic()
    with pytest.raises(DataError, match="in time"):
        fetch(path, port, tmp_path, total_s=0.5)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "url",
    [
        "http://", "http:///etc/passwd", "http://[::1", "http://127.0.0.1:99999/", "https://\ud800/", "http://a b/",
        "http://\0/",
        "http://evil.test/", "http://127.0.0.1/", "http://127.1:{port}/", "http://2130706433:{port}/",
        "http://0x7f.1:{port}/", "http://user:pass@127.0.0.1:{port}/scan", "http://127.0.0.1:{port}@evil.test/",
        "http://127.0.0.1.:1/", "http://" + "a" * 9000, "http://127.0.0.1%2f:{port}/",
    ],
)  # fmt: skip
def test_urls_that_are_none_or_lead_elsewhere_ask_nobody(port: int, tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError):
        fetch(url.replace("{port}", str(port)), port, tmp_path)
    assert Hostile.asked == []


def test_a_listed_name_may_not_lead_into_an_unlisted_network(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, ["127.0.0.1"])
    with pytest.raises(DataError, match=f"private network.*{NETWORKS_VARIABLE}"):
        fetch(f"http://files.test:{port}/scan", port, tmp_path, networks="10.0.0.0/8")
    assert Hostile.asked == []


def test_a_name_that_changes_its_address_leads_nowhere_new(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that was checked is the one that is asked; the name is resolved once."""
    asked = resolve(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    assert fetch(f"http://files.test:{port}/scan", port, tmp_path) == CONTENT
    assert asked == ["files.test"]
    assert Hostile.asked == [f"files.test:{port} /scan"]


def test_of_several_addresses_only_permitted_ones_are_asked(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, ["192.168.1.1", "127.0.0.9", "127.0.0.1"])  # nobody listens on the second
    assert fetch(f"http://files.test:{port}/scan", port, tmp_path) == CONTENT


def resolve(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Answer names with these addresses, one list after the other; gives the names that were asked for."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
        addresses = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked

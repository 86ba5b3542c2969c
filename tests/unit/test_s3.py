"""What the S3 store makes good by itself, against a server that fails a given number of times."""

import base64
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vilam3.errors import ArtifactError, NotFoundError, OutOfReachError
from vilam3.s3 import ATTEMPTS, S3Store

BODY = b"what was kept"
CONFLICT = b"<Error><Code>OperationAborted</Code></Error>"
ABSENT = b"<Error><Code>NoSuchKey</Code></Error>"
EMPTY = b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>"


@dataclass(slots=True)
class Faulty:
    """How the server fails, how many times more, and what it was asked."""

    fault: str = ""
    left: int = 0
    methods: list[str] = field(default_factory=list)

    def is_due(self, fault: str) -> bool:
        """Whether to fail this time."""
        if self.fault != fault or not self.left:
            return False
        self.left -= 1
        return True


class Handler(BaseHTTPRequestHandler):
    """One object of any key."""

    protocol_version = "HTTP/1.1"
    faulty: Faulty

    def do_GET(self) -> None:
        """The object, or an empty listing."""
        self.faulty.methods.append("GET")
        if "list-type" in self.path:
            self._answer(200, EMPTY)
            return
        promised = b"another object" if self.faulty.is_due("checksum") else BODY
        checksum = base64.b64encode(zlib.crc32(promised).to_bytes(4)).decode()
        is_cut = self.faulty.is_due("cut")
        headers = {"x-amz-checksum-crc32": checksum, "Content-Length": str(len(BODY))}
        self._answer(200, BODY[:5] if is_cut else BODY, headers)
        self.close_connection = self.close_connection or is_cut

    def do_PUT(self) -> None:
        """Take anything."""
        self.faulty.methods.append("PUT")
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.faulty.is_due("conflict"):
            self._answer(409, CONFLICT)
        else:
            self._answer(200, b"")

    def do_DELETE(self) -> None:
        """Remove it, or say that another has."""
        self.faulty.methods.append("DELETE")
        if self.faulty.is_due("absent"):
            self._answer(404, ABSENT)
        else:
            self._answer(204, b"")

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def faulty() -> Faulty:
    return Faulty()


@pytest.fixture
def store(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Given", (Handler,), {"faulty": faulty})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield S3Store("data")
        server.shutdown()


@pytest.mark.parametrize("fault", ["checksum", "cut"])
def test_a_broken_body_is_fetched_again(store: S3Store, faulty: Faulty, fault: str) -> None:
    faulty.fault, faulty.left = fault, ATTEMPTS - 1
    assert store.get("one") == BODY
    assert faulty.methods == ["GET"] * ATTEMPTS


@pytest.mark.parametrize("fault", ["checksum", "cut"])
def test_a_body_that_stays_broken_is_no_body(store: S3Store, faulty: Faulty, fault: str) -> None:
    faulty.fault, faulty.left = fault, ATTEMPTS
    with pytest.raises(OutOfReachError, match="out of reach"):
        store.get("one")


def test_a_key_that_another_writes_is_written_again(store: S3Store, faulty: Faulty) -> None:
    faulty.fault, faulty.left = "conflict", ATTEMPTS - 1
    store.put("one", b"new")
    faulty.left = 1
    assert store.put_new("one", b"new")
    faulty.left = ATTEMPTS
    with pytest.raises(ArtifactError, match="OperationAborted"):
        store.put("one", b"new")


def test_what_another_has_removed_is_removed(store: S3Store, faulty: Faulty) -> None:
    faulty.fault, faulty.left = "absent", 1
    store.delete("one")
    assert faulty.methods == ["GET", "DELETE"]


def test_a_key_that_leads_elsewhere_is_none(store: S3Store) -> None:
    with pytest.raises(NotFoundError):
        store.get("../one")

"""A web server of few lines that does what hostile and broken ones do, on a loopback port."""

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator
from typing import Any

CONTENT = b"\x89PNG-as-far-as-anyone-knows"
DRIP_S = 0.05


class Hostile(http.server.BaseHTTPRequestHandler):
    """Each path is a misdeed."""

    protocol_version = "HTTP/1.1"
    asked: list[str] = []  # noqa: RUF012 - shared on purpose: one server a test

    def do_GET(self) -> None:
        """Do what the path says."""
        Hostile.asked.append(f"{self.headers['Host']} {self.path}")
        name = self.path.partition("?")[0].lstrip("/").replace("-", "_").partition(".")[0]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, f"_{name}", self._missing)()

    def _scan(self) -> None:
        self._answer(200, {"Content-Length": str(len(CONTENT))}, CONTENT)

    def _missing(self) -> None:
        self._answer(404, {"Content-Length": "0"})

    def _moved(self) -> None:
        self._answer(302, {"Location": "http://169.254.169.254/latest/meta-data", "Content-Length": "0"})

    def _liar(self) -> None:
        self._answer(200, {"Content-Length": "10"}, CONTENT[:5])
        self.close_connection = True

    def _declares_much(self) -> None:
        self._answer(200, {"Content-Length": str(1 << 40)})

    def _sends_much(self) -> None:
        self._answer(200, {"Connection": "close"})
        for _ in range(64):
            self.wfile.write(bytes(1 << 16))

    def _packed(self) -> None:
        self._answer(200, {"Content-Encoding": "gzip", "Content-Length": "4"}, b"\x1f\x8b\0\0")

    def _drips(self) -> None:
        self._answer(200, {"Content-Length": "100000"})
        self._drip(b"x")

    def _drips_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self._drip(b"y")

    def _garbage(self) -> None:
        self.wfile.write(b"\0\1\2 not http at all\r\n\r\n")

    def _empty(self) -> None:
        self._answer(200, {"Content-Length": "0"})

    def _drip(self, piece: bytes) -> None:
        for _ in range(200):
            self.wfile.write(piece)
            self.wfile.flush()
            time.sleep(DRIP_S)

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:  # noqa: ANN401 - the library's signature
        """Say nothing."""


@contextlib.contextmanager
def hostile_server() -> Iterator[int]:
    """Serve; gives the port."""
    Hostile.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()

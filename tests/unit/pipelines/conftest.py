"""A pipelines' server that keeps what it is given, for tests of what it is sent."""

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.unit.pipelines.kfp_server import Handler, Kept


@pytest.fixture
def kept() -> Kept:
    """What it has been given."""
    return Kept()


@pytest.fixture
def endpoint(kept: Kept, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Its address."""
    monkeypatch.setenv("HOME", str(tmp_path))  # kfp's client looks for settings and contexts there
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Given", (Handler,), {"kept": kept})) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()

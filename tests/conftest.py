"""What every test shares: few threads, and a unit tier that cannot reach beyond this machine."""

import ipaddress
import os
import socket
from pathlib import Path
from typing import Any

import pytest

# Before torch and numpy are imported, and inherited by the processes that tests start.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

UNIT = Path(__file__).parent / "unit"


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test that connects beyond the loopback fails, rather than pass only where there is a network."""
    if UNIT not in request.path.parents:
        return
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def guarded_connect(self: socket.socket, address: Any) -> None:  # noqa: ANN401 - as in the standard library
        _refuse_remote(self, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:  # noqa: ANN401 - as in the standard library
        _refuse_remote(self, address)
        return connect_ex(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)


def _refuse_remote(used: socket.socket, address: Any) -> None:  # noqa: ANN401 - as in the standard library
    if used.family not in {socket.AF_INET, socket.AF_INET6} or address[0] in {"localhost", ""}:
        return
    if not ipaddress.ip_address(address[0]).is_loopback:
        pytest.fail(f"a unit test tried to connect to {address[0]}; unit tests stay on this machine")

"""A real S3 server on a folder: Versity's gateway, which checks signatures, on a free port of the loopback.

The program is built from the modules that ``infra/tools`` pins, or given in VILAM3_VERSITYGW.
"""

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.unit.serving.live import free_port

PROGRAM_VARIABLE = "VILAM3_VERSITYGW"
READY_S = 30.0
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class S3:
    """A running server.

    Attributes:
        endpoint: Its URL.
        access_key: Of its only user.
        secret_key: Likewise.
        process: It itself, for tests that end it.
        is_atomic: Bytes and checksum of an object change in one step, however many write it.
    """

    endpoint: str
    access_key: str
    secret_key: str
    process: "subprocess.Popen[bytes]"
    is_atomic: bool

    def environment(self) -> dict[str, str]:
        """What its clients are told."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """Serve `folder`. Skips the test where the server cannot run, and says why."""
    program, port = _program(), free_port()
    access_key, secret_key = "test", secrets.token_hex(16)
    buckets = folder / "buckets"
    buckets.mkdir(parents=True)
    attributes = _attributes(folder)
    root = {"ROOT_ACCESS_KEY": access_key, "ROOT_SECRET_KEY": secret_key}
    command = [program, "--port", f"127.0.0.1:{port}", "posix", *attributes, str(buckets)]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - built from pinned modules
            command, stdout=output, stderr=output, env={**os.environ, **root}
        )
    url = f"http://127.0.0.1:{port}"
    running = S3(endpoint=url, access_key=access_key, secret_key=secret_key, process=process, is_atomic=not attributes)
    try:
        _wait_until_ready(process, running, log)
        yield running
    finally:
        process.terminate()
        process.wait(30)


def _attributes(folder: Path) -> list[str]:
    """Where it keeps what belongs to an object: at its file, in one step with it, or beside it where that cannot be.

    Beside it, two writers of one key may leave the bytes of one with the checksum of the other.
    """
    try:
        os.setxattr(folder, "user.test", b"")
    except OSError:
        (folder / "sidecar").mkdir()
        return ["--sidecar", str(folder / "sidecar")]
    return []


def _program() -> str:
    given = os.environ.get(PROGRAM_VARIABLE)
    if given:
        return given
    if not (ROOT / "infra" / "tools" / "versitygw").is_dir():
        pytest.skip(f"no S3 server is built here; name one in {PROGRAM_VARIABLE}")
    command = [sys.executable, "-m", "infra.cluster", "tool", "versitygw"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if found.returncode:
        pytest.skip(f"the S3 server cannot be built here: {found.stderr.strip().splitlines()[-1:]}")
    return found.stdout.strip().splitlines()[-1]


def _wait_until_ready(process: "subprocess.Popen[bytes]", running: S3, log: Path) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(running.endpoint, trust_env=False)
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"the S3 server is not ready within {READY_S} s: {log.read_text()}")

"""The node's container runtime, spoken to from outside of the node's namespaces."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from infra.cluster.node_files import SOCKET
from vilam3.errors import ClusterError, NotFoundError, PrerequisiteError

NAMESPACE = "k8s.io"  # containerd's, in which the kubelet looks for images
READY_TIMEOUT_S = 120.0
POLL_S = 0.5
NEEDED_BY_SIZE = 2
SPARE_BYTES = 2 << 30  # with less the kubelet would take pods away
GIGABYTE = 1e9


def load(archive: Path, *, inside: int) -> list[str]:
    """Import the images of `archive` and return their names.

    Args:
        archive: OCI or docker archive.
        inside: A process of the node, whose namespaces are entered.

    Raises:
        NotFoundError: There is no such file.
        ClusterError: The runtime does not take it.
    """
    if not archive.is_file():
        raise NotFoundError(f"image archive {archive}: no such file; make image writes them")
    _wait_until_ready(inside)
    with archive.open("rb") as stream:  # the node may see another file under this name
        ran = _ctr(["images", "import", "-"], inside=inside, stdin=stream)
    if ran.returncode:
        raise ClusterError(f"image archive {archive}: containerd does not take it: {ran.stderr.strip()}")
    return re.findall(r"^unpacking (\S+)", ran.stdout, re.MULTILINE)


def receive(write: Callable[[IO[bytes]], None], *, inside: int) -> None:
    """Import the images of an archive while `write` writes it, so that it takes no room of its own.

    Raises:
        ClusterError: The runtime does not take it.
    """
    _wait_until_ready(inside)
    command = _command(["images", "import", "-"], inside=inside)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:  # noqa: S603 - our own arguments
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError), process.stdin as pipe:  # it says below why it stopped reading
            write(pipe)
        told = process.stdout.read().decode(errors="replace")
    if process.returncode:
        raise ClusterError(f"containerd does not take an image: {told.strip()}")


def digests(*, inside: int) -> dict[str, str]:
    """Names of the images that the node has, each with the digest of its manifest."""
    _wait_until_ready(inside)
    rows = _ctr(["images", "list"], inside=inside).stdout.splitlines()[1:]
    return {row.split()[0]: row.split()[2] for row in rows}


def check_room(name: str, *, size_bytes: int, folder: Path) -> None:
    """Refuse an image that would fill the disk: the node keeps its layers packed and unpacked.

    Args:
        name: What is refused, for the reader.
        size_bytes: Of its layers, or of an archive.
        folder: Where the node keeps them.

    Raises:
        PrerequisiteError: There is too little room.
    """
    needed, free = NEEDED_BY_SIZE * size_bytes + SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise PrerequisiteError(
            f"{name}: the node needs {needed / GIGABYTE:.1f} GB for it and {folder} has "
            f"{free / GIGABYTE:.1f} GB free; free some, or bring the cluster up elsewhere with --root"
        )


def _wait_until_ready(inside: int) -> None:
    until = time.monotonic() + READY_TIMEOUT_S
    while _ctr(["version"], inside=inside).returncode:
        if time.monotonic() > until:
            raise ClusterError(f"containerd does not answer after {READY_TIMEOUT_S:.0f} s; its log is containerd.log")
        time.sleep(POLL_S)


def _ctr(
    arguments: Sequence[str], *, inside: int, stdin: IO[bytes] | int = subprocess.DEVNULL
) -> "subprocess.CompletedProcess[str]":
    command = _command(arguments, inside=inside)
    return subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments


def _command(arguments: Sequence[str], *, inside: int) -> list[str]:
    enter = ["nsenter", f"--target={inside}", "--mount", "--pid", "--net", "--"]
    return [*enter, "ctr", f"--address={SOCKET}", f"--namespace={NAMESPACE}", *arguments]

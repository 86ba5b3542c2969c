"""Starts a command in a built image as a node would, with runc: the image's user, a read-only root, no capability.

Containers of one `Network` reach each other on its loopback address, and nothing reaches in or out of it.
"""

import json
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vilam3.errors import ClusterError

SPEC_VERSION = "1.0.2"
KERNEL_FILES = ("/proc/kcore", "/proc/keys", "/proc/timer_list")
STOP_S = 30


@dataclass(frozen=True, slots=True)
class Network:
    """A network namespace with nothing but a loopback interface."""

    name: str

    @property
    def path(self) -> Path:
        """Where the kernel shows it."""
        return Path("/run/netns") / self.name


@contextmanager
def network() -> Iterator[Network]:
    """A network that lasts as long as the block."""
    made = Network(f"vilam3-{uuid.uuid4().hex[:8]}")
    _call("ip", "netns", "add", made.name)
    try:
        _call("nsenter", f"--net={made.path}", "ip", "link", "set", "lo", "up")
        yield made
    finally:
        _call("ip", "netns", "delete", made.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What to start.

    Attributes:
        image: Reference of an image in buildah's storage.
        arguments: After the image's entrypoint; instead of it when `entrypoint` is given.
        entrypoint: Replaces the image's own.
        environment: Added to the image's own.
        folders: Path in the container: folder of this machine, writable.
        scratch: Paths in the container that are empty and writable.
    """

    image: str
    arguments: Sequence[str] = ()
    entrypoint: Sequence[str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    scratch: Sequence[str] = ("/tmp", "/var/lib/vilam3")  # noqa: S108 - of the container


def run(container: Container, *, inside: Network, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run `container` to its end."""
    with _bundle(container, inside=inside) as bundle:
        command = ["runc", "run", "--bundle", str(bundle), bundle.name]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)  # noqa: S603 - our own words


@contextmanager
def running(container: Container, *, inside: Network, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Have `container` run during the block, its output in `log`; afterwards it is asked to stop, then made to."""
    with _bundle(container, inside=inside) as bundle, log.open("wb") as output:
        command = ["runc", "run", "--bundle", str(bundle), bundle.name]
        with subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:  # noqa: S603 - our own words
            try:
                yield process
            finally:
                _stop(process, bundle.name)


def _stop(process: "subprocess.Popen[bytes]", name: str) -> None:
    for signal in ("TERM", "KILL"):
        subprocess.run(["runc", "kill", name, signal], capture_output=True, check=False)  # noqa: S603, S607 - our own words
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            continue
        return


@contextmanager
def _bundle(container: Container, *, inside: Network) -> Iterator[Path]:
    """A folder as runc wants it: the mounted image, and what to do with it."""
    working = _call("buildah", "from", "--pull-never", container.image)
    name = f"vilam3-{uuid.uuid4().hex[:12]}"
    try:
        root = _call("buildah", "mount", working)
        told = json.loads(_call("buildah", "inspect", working))["OCIv1"]["config"]
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / name
            bundle.mkdir()
            specification = _specification(container, told=told, root=root, inside=inside)
            (bundle / "config.json").write_text(json.dumps(specification))
            yield bundle
    finally:
        subprocess.run(["runc", "delete", "--force", name], capture_output=True, check=False)  # noqa: S603, S607 - our own words
        _call("buildah", "rm", working)


def _specification(container: Container, *, told: dict[str, Any], root: str, inside: Network) -> dict[str, Any]:
    uid, _, gid = told["User"].partition(":")
    entrypoint = told.get("Entrypoint") if container.entrypoint is None else container.entrypoint
    given = [f"{name}={value}" for name, value in container.environment.items()]
    return {
        "ociVersion": SPEC_VERSION,
        "process": {
            "user": {"uid": int(uid), "gid": int(gid)},
            "args": [*(entrypoint or ()), *(container.arguments or told.get("Cmd") or ())],
            "env": [*told.get("Env", ()), *given],
            "cwd": told.get("WorkingDir") or "/",
            "noNewPrivileges": True,
        },
        "root": {"path": root, "readonly": True},
        "hostname": "vilam3",
        "mounts": [*_kernel_mounts(), *_mounts(container, uid=uid, gid=gid)],
        "linux": {
            "namespaces": [
                *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
                {"type": "network", "path": str(inside.path)},
            ],
            "maskedPaths": list(KERNEL_FILES),
        },
    }


def _kernel_mounts() -> list[dict[str, Any]]:
    quiet = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": quiet},
        {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro", *quiet]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*quiet, "mode=1777"]},  # noqa: S108 - of the container
    ]


def _mounts(container: Container, *, uid: str, gid: str) -> list[dict[str, Any]]:
    owned = ["nosuid", "nodev", "mode=0770", f"uid={uid}", f"gid={gid}"]
    scratch = [
        {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": owned} for path in container.scratch
    ]
    return scratch + [
        {"destination": path, "type": "none", "source": str(folder), "options": ["rbind", "rw"]}
        for path, folder in container.folders.items()
    ]


def _call(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if ran.returncode:
        raise ClusterError(f"{' '.join(command[:2])} failed: {ran.stderr.strip()}")
    return ran.stdout.strip()

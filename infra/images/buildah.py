"""Buildah, which builds a Dockerfile without a daemon; the only place that calls it.

Its chroot isolation needs root and nothing else, so that it works inside containers and on machines with old cgroups.
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from infra.images.store import Store
from vilam3.errors import ClusterError

ISOLATION = "chroot"
# Of this machine, as the base has it: a build must trust what the machine trusts.
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SHOWN_LINES = 15


def build(dockerfile: Path, *, name: str, target: str = "", arguments: Mapping[str, str] | None = None) -> None:
    """Build `dockerfile`, with its folder as context, and call the image `name`.

    Raises:
        ClusterError: It failed; the message ends with its last lines.
    """
    command = ["bud", "--layers", "--isolation", ISOLATION, "--format", "oci", "--tag", name, "--file", str(dockerfile)]
    if target:
        command += ["--target", target]
    if CERTIFICATES.exists():
        command += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
    for key, value in (arguments or {}).items():
        command += ["--build-arg", f"{key}={value}"]
    _buildah(*command, str(dockerfile.parent))


def has(name: str) -> bool:
    """Whether buildah's own storage holds the image."""
    command = ["buildah", "inspect", "--type=image", name]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603 - our own words


def push(name: str, store: Store) -> None:
    """Keep the image in `store`, its layers uncompressed; what is there already is not written again."""
    store.create()
    _buildah("push", "--quiet", "--disable-compression", "--format", "oci", name, f"oci:{store.root}:{name}")
    store.prune()


def pull(name: str, store: Store) -> None:
    """Bring the image from `store` back into buildah's own storage, under its name."""
    identifier = _buildah("pull", "--quiet", f"oci:{store.root}:{name}").split()[-1]
    _buildah("tag", identifier, name)


def _buildah(*arguments: str) -> str:
    ran = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607 - our own words
    if ran.returncode:
        last = "\n".join((ran.stdout + ran.stderr).splitlines()[-SHOWN_LINES:])
        raise ClusterError(f"buildah {arguments[0]} failed; its last words:\n{last}")
    return ran.stdout

"""Buildah, which builds a Dockerfile without a daemon, and skopeo, which copies out of its storage; called only here.

Buildah's chroot isolation needs root and nothing else, so that it works inside containers and whatever the cgroups.
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from infra.images.store import Store
from vilam3.errors import ClusterError

ISOLATION = "chroot"
UNCOMPRESSED = "--dest-oci-accept-uncompressed-layers"
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
    _run("buildah", *command, str(dockerfile.parent))


def has(name: str) -> bool:
    """Whether buildah's own storage holds the image."""
    command = ["buildah", "inspect", "--type=image", name]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603 - our own words


def push(name: str, store: Store) -> None:
    """Keep the image in `store`, its layers uncompressed; what is there already is not written again.

    Buildah's own push would compress every layer anew at each call, minutes for an environment.
    """
    with store.alone():
        _run("skopeo", "copy", "--quiet", UNCOMPRESSED, f"containers-storage:{name}", f"oci:{store.root}:{name}")
        store.prune()


def pull(name: str, store: Store) -> None:
    """Bring the image from `store` back into buildah's own storage, under its name."""
    _run("skopeo", "copy", "--quiet", f"oci:{store.root}:{name}", f"containers-storage:{name}")


def remove(name: str) -> None:
    """Take the image out of buildah's own storage, and what broken-off builds began on it; shared layers stay."""
    _run("buildah", "rmi", "--force", name)


def remove_unnamed() -> None:
    """Take out of buildah's own storage what was built on the way and is no image's now."""
    _run("buildah", "rmi", "--prune", "--force")


def _run(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if ran.returncode:
        last = "\n".join((ran.stdout + ran.stderr).splitlines()[-SHOWN_LINES:])
        raise ClusterError(f"{' '.join(command[:2])} failed; its last words:\n{last}")
    return ran.stdout

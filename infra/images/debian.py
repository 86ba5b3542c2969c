"""The base of images that are built without a registry: Debian with Python, made of Debian's packages by mmdebstrap."""

import hashlib
import subprocess
import tempfile
from pathlib import Path

from infra.images import buildah
from infra.images.catalogue import KEY_LETTERS
from infra.images.store import Store

SUITE = "bookworm"  # mmdebstrap knows where it is served, with its updates and security fixes
# The headers of Python are for kernels that are compiled at the first use.
PACKAGES = ("ca-certificates", "python-is-python3", "python3", "python3-dev", "python3-venv")
SLIM = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
DOCKERFILE = 'FROM scratch\nADD root.tar /\nCMD ["bash"]\n'


def reference() -> str:
    """What the base is called: one name for one list of packages."""
    told = "\n".join((SUITE, *PACKAGES, *SLIM, DOCKERFILE))
    return f"localhost/vilam3-debian:{hashlib.sha256(told.encode()).hexdigest()[:KEY_LETTERS]}"


def build(store: Store) -> str:
    """Make the base and keep it in `store`; its reference.

    The packages are those of the day: the same list a month later may hold newer ones, which is why it is kept.
    """
    name = reference()
    with tempfile.TemporaryDirectory(prefix="vilam3-debian-") as folder:
        context = Path(folder)
        (context / "Dockerfile").write_text(DOCKERFILE)
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        command += [f"--dpkgopt={option}" for option in SLIM]
        subprocess.run([*command, SUITE, str(context / "root.tar")], check=True)  # noqa: S603 - our own words
        buildah.build(context / "Dockerfile", name=name)
    buildah.push(name, store)
    return name

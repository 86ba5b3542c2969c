"""Images of the programs that run in pods of the test cluster: which there are, and their archives."""

from collections.abc import Callable
from pathlib import Path
from shutil import which

from infra.cluster import archive, tools
from infra.cluster.archive import Image
from infra.cluster.node_files import PAUSE_IMAGE

REGISTRY = "docker.io/vilam3"
SHELL = f"{REGISTRY}/busybox:1"
APPLETS = ("cat", "httpd", "ls", "mkdir", "nc", "nslookup", "rm", "sed", "sh", "sleep", "tail", "touch")


def name(tool: str) -> str:
    """Reference of the image of a program, tagged with the version that is pinned."""
    return f"{REGISTRY}/{tool}:{tools.version(tool)}"


def program(tool: str, *, say: Callable[[str], None], reference: str = "") -> Path:
    """The archive of the image that holds the one program `tool`, made if it is not there."""
    binary = tools.path(tool, say=say)
    out = binary.parent / f"{tool}.oci.tar"
    if not out.exists():
        image = Image(name=reference or name(tool), files={f"/{tool}": binary}, entrypoint=[f"/{tool}"])
        archive.write(image, out=out)
    return out


def pause(*, say: Callable[[str], None]) -> Path:
    """The archive of the image that holds each pod's namespaces open."""
    return program("pause", say=say, reference=PAUSE_IMAGE)


def shell(folder: Path) -> Path:
    """The archive of an image with a shell and a few commands, for pods that make volumes and for tests."""
    busybox = which("busybox")
    assert busybox is not None, "a prerequisite of the node"
    links = {f"/bin/{applet}": "busybox" for applet in APPLETS}
    files = {"/bin/busybox": Path(busybox)}
    image = Image(name=SHELL, files=files, links=links, entrypoint=["/bin/sh"], user=0)
    return archive.write(image, out=folder / "busybox.oci.tar")

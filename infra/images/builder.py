"""How an image comes to be: by docker from a base that it pulls, or by buildah from Debian's packages alone."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from infra.cluster.tools import cache
from infra.images import buildah, debian
from infra.images.catalogue import IMAGES, Image
from infra.images.store import Store
from infra.took import measured
from vilam3.errors import ClusterError, PrerequisiteError

Engine = Literal["docker", "buildah"]
LAYERS_ONLY = "localhost/vilam3-"  # what images are built on is called so
OFFLINE_PROGRAMS = ("buildah", "mmdebstrap", "skopeo")

Say = Callable[[str], None]


def store() -> Store:
    """Where built images and environments are kept."""
    return Store(cache() / "images")


def choose() -> Engine:
    """Docker where it answers, else buildah.

    Raises:
        PrerequisiteError: Neither can be used; says what would help.
    """
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:  # noqa: S607 - the docker of this machine
        return "docker"
    require_offline_programs()
    return "buildah"


def require_offline_programs() -> None:
    """Check that buildah can build here, without docker.

    Raises:
        PrerequisiteError: It cannot; says what would help.
    """
    absent = [program for program in OFFLINE_PROGRAMS if shutil.which(program) is None]
    if absent:
        raise PrerequisiteError(
            f"no docker answers and {', '.join(absent)} cannot be found; start docker, or on Debian, as root: "
            f"apt-get install --no-install-recommends {' '.join(OFFLINE_PROGRAMS)}"
        )
    if os.geteuid() != 0:
        raise PrerequisiteError("no docker answers, and buildah's chroot isolation needs root; start docker or be root")


def build(image: Image, *, registry: str, engine: Engine, say: Say) -> str:
    """Build one image and return its full reference."""
    name = image.name(registry)
    say(f"building {name} with {engine} ...")
    if engine == "docker":
        _build_with_docker(image, name=name)
    else:
        _build_offline(image, name=name, say=say)
    return name


def environment(image: Image, *, say: Say) -> str:
    """Reference of the image's environment in buildah's storage: there already, restored, or built."""
    base = _base(say=say)
    name = image.environment(base)
    if not _kept(name):
        say(f"building {name}, once for its lock ...")
        with _timed(name):
            _build_environment(image, name=name, base=base)
    return name


def _build_environment(image: Image, *, name: str, base: str) -> None:
    target = f"{image.role}-environment"
    buildah.build(image.dockerfile, name=name, target=target, arguments={"BASE_IMAGE": base})
    buildah.push(name, store())


def _base(*, say: Say) -> str:
    """Reference of the base in buildah's storage."""
    name = debian.reference()
    if not _kept(name):
        say(f"building {name} of Debian's packages ...")
        with _timed(name):
            debian.build(store())
    return name


def prune(*, say: Say) -> None:
    """Remove environments and bases that this checkout would not build on, and buildah's images without a name."""
    base = debian.reference()
    used = {base, *(image.environment(base) for image in IMAGES.values() if image.has_environment)}
    for name in store().names():
        if name.startswith(LAYERS_ONLY) and name not in used:
            say(f"removing {name} ...")
            store().remove(name)
            if buildah.has(name):
                buildah.remove(name)
    with store().alone():
        store().prune()
    buildah.remove_unnamed()


def _build_offline(image: Image, *, name: str, say: Say) -> None:
    arguments = {"BASE_IMAGE": _base(say=say)}
    if image.has_environment:
        arguments[image.argument] = environment(image, say=say)
    with _timed(name):
        buildah.build(image.dockerfile, name=name, target=image.target, arguments=arguments)
        buildah.push(name, store())


def _build_with_docker(image: Image, *, name: str) -> None:
    command = ["docker", "build", "--tag", name, "--file", str(image.dockerfile)]
    command += ["--target", image.target] if image.target else []
    if subprocess.run([*command, str(image.folder)], check=False).returncode:  # noqa: S603 - our own words
        raise ClusterError(f"docker could not build {name}; its reason is above")


def _kept(name: str) -> bool:
    """Whether the image was built before; then both buildah's storage and the store have it afterwards."""
    kept, storage = store().has(name), buildah.has(name)
    if kept and not storage:
        buildah.pull(name, store())
    if storage and not kept:
        buildah.push(name, store())
    return kept or storage


@contextmanager
def _timed(name: str) -> Iterator[None]:
    """Note how long `name` took."""
    with measured() as took:
        yield
    store().note(name, wall_s=took.wall_s, cpu_s=took.cpu_s)

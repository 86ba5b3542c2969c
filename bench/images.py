"""What the images weigh and take: each as it lies in the store, its environment's build, and a change of our own code.

Images must have been built by buildah: ``make image IMAGES="ops cpu postgresql" REGISTRY=docker.io/vilam3``.
The time of the base and of an environment is that of its last build, kept beside the store, and processor time, since
that build may have waited for the network or for neighbours. The rebuild after a change is measured here.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.record import Figure, write
from infra.images import buildah, builder, debian
from infra.images.catalogue import REGISTRY, ROOT, Image, find
from infra.images.store import Store

ROLES = ("ops", "cpu", "postgresql")
MEGABYTE = 1_000_000
BENCH_REGISTRY = "localhost/bench"
MOST_REBUILD_S = 60.0
BUILD_INPUTS = (
    "Dockerfile",
    ".dockerignore",
    "LICENSE",
    "NOTICE",
    "README.md",
    "pyproject.toml",
    "requirements",
    "vilam3",
    "components",
    "pipelines",
    "serving",
    "infra",
)


def run() -> dict[str, Any]:
    """Measure what is built, and rebuild each of our images once with one line changed."""
    store = builder.store()
    figures = [*_took(store, debian.reference(), label="base")]
    for role in ROLES:
        figures += _image(find(role), store=store)
    return write("images", figures, command="make bench AREAS=images")


def _image(image: Image, *, store: Store) -> list[Figure]:
    name = image.name(REGISTRY)
    figures = [Figure(name=f"{image.role}: layers, uncompressed", value=store.size_bytes(name) / MEGABYTE, unit="MB")]
    if image.has_environment:
        environment = image.environment(debian.reference())
        size = Figure(
            name=f"{image.role}: of these its environment", value=store.size_bytes(environment) / MEGABYTE, unit="MB"
        )
        figures += [size, *_took(store, environment, label=f"{image.role}: environment"), *_changed(image, store=store)]
    return figures


def _took(store: Store, name: str, *, label: str) -> list[Figure]:
    took = store.notes().get(name)
    return [Figure(name=f"{label}: processor time of its build", value=took["cpu_s"], unit="s")] if took else []


def _changed(image: Image, *, store: Store) -> list[Figure]:
    """Rebuild with one line of our code changed, and write what a node would have to import."""
    with tempfile.TemporaryDirectory(prefix="vilam3-bench-") as folder, _changed_copy(image, Path(folder)) as changed:
        began = time.perf_counter()
        name = builder.build(changed, registry=BENCH_REGISTRY, engine="buildah", say=lambda _: None)
        rebuilt_s = time.perf_counter() - began
        cpu_s = store.notes()[name]["cpu_s"]
        archive = Path(folder) / "thin.tar"
        store.write_archive(name, out=archive, without=image.environment(debian.reference()))
        thin_mb = archive.stat().st_size / MEGABYTE
        store.remove(name)
        buildah.remove(name)
    return [
        Figure(
            name=f"{image.role}: rebuilt after a change of our code", value=rebuilt_s, unit="s", baseline=MOST_REBUILD_S
        ),
        Figure(name=f"{image.role}: the same, processor time", value=cpu_s, unit="s"),
        Figure(name=f"{image.role}: archive for a node that has its environment", value=thin_mb, unit="MB"),
    ]


@contextmanager
def _changed_copy(image: Image, folder: Path) -> Iterator[Image]:
    """The image with a copy of the checkout, in which one line is new."""
    for given in BUILD_INPUTS:
        source, copy = ROOT / given, folder / given
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, copy)
    with (folder / "vilam3" / "__init__.py").open("a") as module:
        module.write(f"# changed at {time.time()}\n")
    yield replace(image, folder=folder)

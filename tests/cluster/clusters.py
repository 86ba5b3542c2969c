"""A cluster with real pods for the tests of a tier: the one that is up in runs/cluster, or one of the tier's own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.cluster import images, node
from infra.cluster.layout import DEFAULT, Layout
from infra.cluster.local import Local
from infra.images import builder
from infra.images.catalogue import REGISTRY, find
from tests.chart import ROOT
from vilam3.errors import PrerequisiteError

PRESENT = Local(layout=Layout(ROOT / DEFAULT), say=print)


@contextmanager
def cluster(folder: Path, *, operators: Sequence[str]) -> Iterator[Local]:
    """A cluster with a node and these operators.

    The one of ``make cluster-up`` gets what it lacks and stays up; where there is none, one comes up in `folder`. What
    this machine lacks skips the test.
    """
    local = PRESENT if has_node(PRESENT) else Local(layout=Layout(folder / "cluster"), say=print)
    try:
        node.prerequisites()
        local.up("full", operators=operators)
        yield local
    except PrerequisiteError as lacking:
        pytest.skip(f"SKIPPED: {lacking}")
    finally:
        if local is not PRESENT:
            local.down()


def has_node(local: Local) -> bool:
    """Whether it is up, and with a node."""
    return any("kubelet" in line for line in local.status().lines)


def require_images(roles: Sequence[str]) -> None:
    """Skip the test where an image has not been built."""
    if absent := [role for role in roles if not builder.store().has(find(role).name(REGISTRY))]:
        pytest.skip(f'SKIPPED: images are not built: make image IMAGES="{" ".join(absent)}" REGISTRY={REGISTRY}')


def load_images(local: Local, *, roles: Sequence[str], tools: Sequence[str], folder: Path) -> None:
    """Bring images that were built here to the node, but for those that it has."""
    has, store = local.image_digests(), builder.store()
    for tool in tools:
        local.load_image(images.program(tool, say=print))
    for role in roles:
        name = find(role).name(REGISTRY)
        if has.get(name) != store.digest(name):
            archive = store.write_archive(name, out=folder / f"{role}.tar")
            local.load_image(archive)
            archive.unlink()

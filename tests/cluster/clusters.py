"""A cluster with real pods for the tests of a tier: the one that is up in runs/cluster, or one of the tier's own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from infra.cluster import images, node
from infra.cluster.layout import DEFAULT, Layout
from infra.cluster.local import Local
from infra.images import builder
from infra.images.catalogue import REGISTRY, find
from infra.images.store import Store
from tests.chart import ROOT
from vilam3.errors import PrerequisiteError

PRESENT = Local(layout=Layout(ROOT / DEFAULT), say=print)


@contextmanager
def or_skip() -> Iterator[None]:
    """Skip the test where this machine lacks something."""
    try:
        yield
    except PrerequisiteError as lacking:
        pytest.skip(f"SKIPPED: {lacking}")


@contextmanager
def cluster(folder: Path, *, operators: Sequence[str]) -> Iterator[Local]:
    """A cluster with a node and these operators.

    The one of ``make cluster-up`` gets what it lacks and stays up; where there is none, one comes up in `folder`. What
    this machine lacks skips the test.
    """
    with or_skip():
        if has_node(PRESENT):
            PRESENT.up("full", operators=operators)
            yield PRESENT
        else:
            with own_cluster(folder, operators=operators) as local:
                yield local


@contextmanager
def own_cluster(folder: Path, *, operators: Sequence[str]) -> Iterator[Local]:
    """A cluster of its own in `folder`, gone afterwards.

    Raises:
        PrerequisiteError: This machine lacks something that a node needs.
    """
    node.prerequisites()
    local = Local(layout=Layout(folder / "cluster"), say=print)
    try:
        local.up("full", operators=operators)
        yield local
    finally:
        local.down()


def has_node(local: Local) -> bool:
    """Whether it is up, and with a node."""
    return any("kubelet" in line for line in local.status().lines)


def require_images(roles: Sequence[str]) -> None:
    """Have images of this checkout's code; what this machine lacks for building them skips the test."""
    with or_skip():
        build_images(roles)


def build_images(roles: Sequence[str]) -> None:
    """Build images of this checkout's code; in seconds where their environments have been built before.

    Raises:
        PrerequisiteError: This machine lacks the programs that build without a registry.
    """
    builder.require_offline_programs()
    for role in roles:
        builder.build(find(role), registry=REGISTRY, engine="buildah", say=print)


def load_images(local: Local, *, roles: Sequence[str], tools: Sequence[str]) -> None:
    """Bring images that were built here to the node, but for those that it has."""
    has, store = local.image_digests(), builder.store()
    for tool in tools:
        local.load_image(images.program(tool, say=print))
    for role in roles:
        name = find(role).name(REGISTRY)
        if has.get(name) != store.digest(name):
            write = partial(_write, store, name)
            local.receive_image(name, size_bytes=store.size_bytes(name), write=write)


def _write(store: Store, name: str, stream: IO[bytes]) -> None:
    store.stream_archive(name, into=stream)

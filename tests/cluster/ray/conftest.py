"""A cluster with KubeRay's operator and our images; what this machine lacks skips the tier."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import clusters

ROLES = ("ops", "cpu", "postgresql")
TOOLS = ("versitygw",)


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a cluster with KubeRay that has our images."""
    clusters.require_images(ROLES)
    folder = tmp_path_factory.mktemp("cluster")
    with clusters.cluster(folder, operators=["kuberay"]) as local:
        clusters.load_images(local, roles=ROLES, tools=TOOLS)
        yield local.kubeconfig

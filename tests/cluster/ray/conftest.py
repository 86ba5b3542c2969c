"""A cluster with KubeRay's operator and our images; what this machine lacks skips the tier."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import clusters
from tests.cluster.kserve.trained import Trained, trained

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


@pytest.fixture(scope="session")
def weights(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What is served, and what training starts from."""
    assert kubeconfig  # nothing is trained where nothing can serve it
    return trained(tmp_path_factory.mktemp("trained"))

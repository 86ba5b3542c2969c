"""A cluster with KServe and our images, and the chart installed in it; what this machine lacks skips the tier."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import clusters
from tests.cluster.kserve import platform as installation
from tests.cluster.kserve.platform import Platform
from tests.cluster.kserve.trained import Trained, another, trained


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a cluster with KServe that has our images."""
    clusters.require_images(installation.ROLES)
    folder = tmp_path_factory.mktemp("cluster")
    with clusters.cluster(folder, operators=["kserve"]) as local:
        clusters.load_images(local, roles=installation.ROLES, tools=installation.TOOLS)
        yield local.kubeconfig


@pytest.fixture(scope="session")
def weights(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What is served."""
    assert kubeconfig  # nothing is trained where nothing can serve it
    return trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def platform(kubeconfig: Path, weights: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The chart, installed; everything is ready."""
    made = Platform(kubeconfig=kubeconfig)
    with made.surrounded(weights, another=another(tmp_path_factory.mktemp("another") / "model")):
        made.apply()
        made.await_ready()
        yield made

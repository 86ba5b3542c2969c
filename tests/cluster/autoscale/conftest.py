"""A cluster with KServe, metrics-server and our images, and the chart in it; what this machine lacks skips the tier."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import clusters
from tests.cluster.autoscale.platform import VALUES, ScalingPlatform
from tests.cluster.kserve import platform as installation
from tests.cluster.kserve.trained import another, trained


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a cluster that can scale our images by their use of processors."""
    clusters.require_images(installation.ROLES)
    folder = tmp_path_factory.mktemp("cluster")
    with clusters.cluster(folder, operators=["kserve", "metrics"]) as local:
        clusters.load_images(local, roles=installation.ROLES, tools=installation.TOOLS)
        yield local.kubeconfig


@pytest.fixture(scope="session")
def platform(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScalingPlatform]:
    """The chart, installed; everything is ready."""
    made = ScalingPlatform(kubeconfig=kubeconfig, values=VALUES)
    weights = trained(tmp_path_factory.mktemp("trained"))
    with made.surrounded(weights, another=another(tmp_path_factory.mktemp("another") / "model")):
        made.apply()
        made.await_ready()
        yield made

"""The cluster of a module, as its `UP` says; it goes with the module."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.cluster import manifests
from infra.cluster.cli import main
from infra.cluster.node import prerequisites
from tests.cluster.clusters import or_skip

Kubectl = Callable[..., str]


@pytest.fixture(scope="module")
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the cluster, which is up."""
    level = request.module.LEVEL
    if level != "api":
        with or_skip():
            prerequisites()
    folder = tmp_path_factory.mktemp(level) / "cluster"
    assert main(["--root", str(folder), "--provider", "local", "up", "--level", level]) == 0
    yield folder
    main(["--root", str(folder), "down"])


@pytest.fixture(scope="module")
def kubectl(root: Path) -> Kubectl:
    """Kubectl as the cluster's administrator."""

    def run(*arguments: str, stdin: str = "") -> str:
        return manifests.kubectl(root / "kubeconfig", arguments, stdin=stdin)

    return run

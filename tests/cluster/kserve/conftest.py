"""A cluster with KServe and our images, and the chart installed in it; what this machine lacks skips the tier."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from infra.cluster import images, node
from infra.cluster.cli import main
from infra.images import builder
from infra.images.catalogue import REGISTRY, find
from tests.chart import RELEASE, ROOT
from tests.cluster.kserve.platform import NAMESPACE, Platform
from vilam3.errors import PrerequisiteError
from vilam3.model.checkpoint import fresh, save
from vilam3.model.config import VilaConfig
from vilam3.model.tokenizer import train_tiny

CLUSTER_VARIABLE = "VILAM3_TEST_CLUSTER"  # `--root` of a cluster that has KServe and the images, to be used and left up
LATEST = ROOT / "runs" / "latest"
ROLES = ("ops", "cpu")


@pytest.fixture(scope="session")
def demo() -> Path:
    """A finished demo: its model, its experts, and what they answered in one process."""
    summary = LATEST / "summary.json"
    if not summary.is_file() or json.loads(summary.read_text("utf-8"))["recipe"] != "tiny":
        pytest.skip("SKIPPED: no finished demo in runs/latest; run make demo first")
    return LATEST


@pytest.fixture(scope="session")
def kubeconfig(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a cluster of level `full` with our images."""
    assert demo
    if given := os.environ.get(CLUSTER_VARIABLE):
        yield Path(given) / "kubeconfig"
        return
    try:
        node.prerequisites()
    except PrerequisiteError as lacking:
        pytest.skip(f"SKIPPED: {lacking}")
    if absent := [role for role in ROLES if not builder.store().has(find(role).name(REGISTRY))]:
        pytest.skip(f'SKIPPED: images are not built; make image IMAGES="{" ".join(absent)}" REGISTRY={REGISTRY}')
    folder = tmp_path_factory.mktemp("kserve")
    root = folder / "cluster"
    place = ["--root", str(root), "--provider", "local"]
    try:
        assert main([*place, "up", "--level", "full"]) == 0
        _load_images(place, folder)
        yield root / "kubeconfig"
    finally:
        main([*place, "down"])


def _load_images(place: list[str], folder: Path) -> None:
    assert main([*place, "load-image", str(images.program("versitygw", say=print))]) == 0
    for role in ROLES:
        archive = builder.store().write_archive(find(role).name(REGISTRY), out=folder / f"{role}.tar")
        assert main([*place, "load-image", str(archive)]) == 0
        archive.unlink()


@pytest.fixture(scope="session")
def another_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version of the model that has learned nothing."""
    folder = tmp_path_factory.mktemp("another") / "model"
    torch.manual_seed(0)
    save(fresh(VilaConfig.preset("tiny"), train_tiny(["Is there a tumor? yes no"], vocab_size=600)), folder)
    return folder


@pytest.fixture(scope="session")
def platform(kubeconfig: Path, demo: Path, another_model: Path) -> Iterator[Platform]:
    """The chart, installed; everything is ready."""
    made = Platform(kubeconfig=kubeconfig)
    made.surround({"model": demo / "model", "experts": demo / "experts", "another": another_model})
    try:
        made.apply()
        made.await_ready()
        yield made
    finally:
        made.helm("uninstall", RELEASE, "--ignore-not-found")
        made.kubectl("delete", "namespace", NAMESPACE, "--wait", "--timeout=900s")

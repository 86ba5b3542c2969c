"""An API server of our own with the kinds of every operator, and helm against it."""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from infra.cluster import manifests
from infra.cluster.cli import main
from tests.chart import CHART, NAMESPACE, RELEASE, helm, values_file
from vilam3.errors import PrerequisiteError

PIPELINES = "kubeflow"
KINDS = Path(__file__).parent / "kinds.yaml"

Kubectl = Callable[..., str]
Ran = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a cluster of level `api` that is up."""
    folder = tmp_path_factory.mktemp("api") / "cluster"
    try:
        helm()
        code = main(["--root", str(folder), "--provider", "local", "up", "--level", "api"])
    except PrerequisiteError as error:
        pytest.skip(f"SKIPPED: no API server: {error}")
    assert code == 0
    made = folder / "kubeconfig"
    manifests.kubectl(made, ["apply", "--server-side", f"--filename={KINDS}"])
    manifests.kubectl(made, ["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])
    manifests.kubectl(made, ["create", "namespace", PIPELINES])
    yield made
    main(["--root", str(folder), "down"])


@pytest.fixture
def kubectl(kubeconfig: Path) -> Kubectl:
    """Kubectl as the cluster's administrator."""

    def run(*arguments: str, stdin: str = "") -> str:
        return manifests.kubectl(kubeconfig, arguments, stdin=stdin)

    return run


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """An empty namespace for one release, gone afterwards."""
    kubectl("create", "namespace", NAMESPACE)
    yield NAMESPACE
    kubectl("delete", "namespace", NAMESPACE, "--wait", "--timeout=900s")


class Release:
    """The release under test."""

    def __init__(self, kubeconfig: Path) -> None:
        """Act on this cluster."""
        self._kubeconfig = kubeconfig

    def run(self, *arguments: str, stdin: str = "") -> Ran:
        """Run helm; the caller judges the exit code."""
        command = [str(helm()), f"--kubeconfig={self._kubeconfig}", f"--namespace={NAMESPACE}", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments

    def apply(self, scenario: str, *, chart: Path = CHART, changes: Mapping[str, Any] | None = None) -> Ran:
        """Install or upgrade; the check needs a pod and has a test of its own."""
        values = {"preflight": False, **(changes or {})}
        return self.run(
            "upgrade",
            "--install",
            RELEASE,
            str(chart),
            f"--values={values_file(scenario)}",
            "--values=-",
            stdin=json.dumps(values),
        )

    def manifest(self) -> str:
        """What helm says it has installed."""
        return self.run("get", "manifest", RELEASE).stdout

    def revisions(self) -> list[dict[str, Any]]:
        """The history, oldest first."""
        told: list[dict[str, Any]] = json.loads(self.run("history", RELEASE, "--output=json").stdout)
        return told


@pytest.fixture
def release(kubeconfig: Path, namespace: str) -> Release:
    """The release under test, in an empty namespace."""
    assert namespace == NAMESPACE
    return Release(kubeconfig)

"""The custom resources that an installation needs, taken from the very modules whose programs are built."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra.cluster import tools
from vilam3.errors import ClusterError

ESTABLISHED_TIMEOUT_S = 60
SHOWN_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A folder of manifests in the module of a family of tools, as its kustomization lists them."""

    family: str
    module: str
    folder: str


CUSTOM_RESOURCES = (
    Source(family="kserve", module="github.com/kserve/kserve", folder="config/crd/full"),
    Source(family="keda", module="github.com/kedacore/keda/v2", folder="config/crd"),
    Source(family="kuberay", module="github.com/ray-project/kuberay/ray-operator", folder="config/crd"),
    Source(family="trainer", module="github.com/kubeflow/trainer/v2", folder="manifests/base/crds"),
)


def apply_custom_resources(kubeconfig: Path, *, say: Callable[[str], None]) -> None:
    """Teach the API server the kinds of KServe, KEDA, KubeRay and Trainer, and wait until it serves them."""
    for source in CUSTOM_RESOURCES:
        say(f"applying the kinds of {source.family} ...")
        folder = tools.module_folder(source.family, module=source.module) / source.folder
        kubectl(kubeconfig, ["apply", "--server-side", "--validate=false", "--kustomize", str(folder)])
    await_kinds(kubeconfig)


def await_kinds(kubeconfig: Path) -> None:
    """Wait until every custom resource that was applied is served."""
    wait = f"--timeout={ESTABLISHED_TIMEOUT_S}s"
    kubectl(kubeconfig, ["wait", "--for=condition=Established", wait, "crd", "--all"])


def built(folder: Path, *, kubeconfig: Path) -> list[dict[str, Any]]:
    """What a kustomization says; no server is asked."""
    text = kubectl(kubeconfig, ["kustomize", "--load-restrictor=LoadRestrictionsNone", str(folder)])
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def kubectl(kubeconfig: Path, arguments: Sequence[str], *, stdin: str = "") -> str:
    """Run kubectl and return what it prints.

    Raises:
        ClusterError: It failed.
    """
    command = [str(tools.path("kubectl")), f"--kubeconfig={kubeconfig}", *arguments]
    ran = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    if ran.returncode:
        last = "\n".join(ran.stderr.splitlines()[-SHOWN_LINES:])
        raise ClusterError(f"kubectl {' '.join(arguments[:2])} failed; its last words:\n{last}")
    return ran.stdout

"""The operators of level `full`, from the charts and manifests of the very modules whose programs are built.

What they take for granted and a test cluster lacks is replaced: their registries by images of our builds, and requests
and delays that are meant for larger machines.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from infra.cluster import images, manifests, tools
from infra.cluster.layout import Layout

READY_TIMEOUT = "--timeout=600s"
PROBE_S = 2
REQUESTS = {"cpu": "20m", "memory": "64Mi"}
ACCOUNT_CA = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"  # in every pod

Load = Callable[[Path], list[str]]
Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """An operator whose module has kustomizations.

    Attributes:
        tool: Its program.
        module: Where its manifests are.
        folders: Kustomizations in the module, in the order in which they are applied.
        namespace: Where it runs.
        arguments: Given to it besides its own.
    """

    tool: str
    module: str
    folders: Sequence[str]
    namespace: str
    arguments: Sequence[str] = field(default=())


OPERATORS = (
    Operator(
        tool="ray-operator",
        module="github.com/ray-project/kuberay/ray-operator",
        folders=["config/default"],
        namespace="ray-system",
    ),
    Operator(
        tool="metrics-server",
        module="sigs.k8s.io/metrics-server",
        folders=["manifests/base"],
        namespace="kube-system",
        arguments=[f"--kubelet-certificate-authority={ACCOUNT_CA}"],
    ),
    Operator(
        tool="kwok",
        module="sigs.k8s.io/kwok",
        folders=["kustomize/kwok", "kustomize/stage/fast"],
        namespace="kube-system",
    ),
)


def install(layout: Layout, *, load: Load, say: Callable[[str], None]) -> None:
    """Install `OPERATORS` and wait until they are ready; harmless when they are."""
    for operator in OPERATORS:
        say(f"installing {operator.tool} ...")
        load(images.program(operator.tool, say=say))
        apply(layout, [namespace(operator.namespace)])
        for folder in operator.folders:
            apply(layout, rendered(operator, folder=folder, kubeconfig=layout.kubeconfig))
    for place in {operator.namespace for operator in OPERATORS}:
        await_deployments(layout, namespace=place)


def rendered(operator: Operator, *, folder: str, kubeconfig: Path) -> list[Manifest]:
    """What one kustomization of an operator says, with our image and in our namespace; kinds are applied elsewhere."""
    source = tools.module_folder(tools.TOOLS[operator.tool].family, module=operator.module) / folder
    text = manifests.kubectl(kubeconfig, ["kustomize", "--load-restrictor=LoadRestrictionsNone", str(source)])
    found = [manifest for manifest in yaml.safe_load_all(text) if manifest]
    return [moved(adapted(manifest, operator=operator), namespace=operator.namespace) for manifest in found]


def adapted(manifest: Manifest, *, operator: Operator) -> Manifest:
    """A Deployment that runs our image with the operator's further arguments; anything else as it was."""
    for container in containers(manifest):
        ours(container, tool=operator.tool)
        container["args"] = [*container.get("args", []), *operator.arguments]
    return manifest


def containers(manifest: Manifest) -> list[Manifest]:
    """The containers of a Deployment; none of anything else."""
    return list(manifest["spec"]["template"]["spec"]["containers"]) if manifest["kind"] == "Deployment" else []


def ours(container: Manifest, *, tool: str) -> None:
    """Let `container` run our build of `tool`, on a small machine: no processor limit, and ready as soon as it is."""
    container |= {"image": images.name(tool), "imagePullPolicy": "IfNotPresent", "command": [f"/{tool}"]}
    limits = container.get("resources", {}).get("limits", {})
    container["resources"] = {"requests": REQUESTS, "limits": {name: limits[name] for name in limits if name != "cpu"}}
    container["readinessProbe"] |= {"initialDelaySeconds": PROBE_S, "periodSeconds": PROBE_S}


def moved(manifest: Manifest, *, namespace: str) -> Manifest:
    """The manifest in another namespace, with the accounts that it speaks of; kube-system's own things stay there."""
    for place in (manifest["metadata"], *manifest.get("subjects", [])):
        if place.get("namespace", "kube-system") != "kube-system":
            place["namespace"] = namespace
    return manifest


def namespace(name: str) -> Manifest:
    """The manifest of a namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def apply(layout: Layout, found: Iterable[Manifest]) -> None:
    """Bring manifests to the API server; what was there is changed to them."""
    arguments = ["apply", "--server-side", "--force-conflicts", "--filename=-"]
    manifests.kubectl(layout.kubeconfig, arguments, stdin=yaml.safe_dump_all(found))


def await_deployments(layout: Layout, *, namespace: str) -> None:
    """Wait until all Deployments of a namespace are there in full."""
    wait = ["wait", "--for=condition=Available", READY_TIMEOUT, f"--namespace={namespace}", "deployment", "--all"]
    manifests.kubectl(layout.kubeconfig, wait)

"""The operators of level `full`, from the charts and manifests of the very modules whose programs are built.

What they take for granted and a test cluster lacks is replaced: their registries by images of our builds, and requests
and delays that are meant for larger machines.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
        name: The family of its tools.
        module: Where its manifests are.
        folders: Kustomizations in the module, in the order in which they are applied.
        namespace: Where it runs.
        programs: Name of a container: the tool that it runs. Containers that are not named are left out.
        arguments: Given to them besides their own.
    """

    name: str
    module: str
    folders: Sequence[str]
    namespace: str
    programs: Mapping[str, str]
    arguments: Sequence[str] = field(default=())


OPERATORS = (
    Operator(
        name="kuberay",
        module="github.com/ray-project/kuberay/ray-operator",
        folders=["config/default"],
        namespace="ray-system",
        programs={"kuberay-operator": "ray-operator"},
    ),
    Operator(
        name="metrics",
        module="sigs.k8s.io/metrics-server",
        folders=["manifests/base"],
        namespace="kube-system",
        programs={"metrics-server": "metrics-server"},
        arguments=[f"--kubelet-certificate-authority={ACCOUNT_CA}"],
    ),
    Operator(
        name="kwok",
        module="sigs.k8s.io/kwok",
        folders=["kustomize/kwok", "kustomize/stage/fast"],
        namespace="kube-system",
        programs={"kwok-controller": "kwok"},
    ),
    Operator(
        name="keda",
        module="github.com/kedacore/keda/v2",
        folders=["config/minimal"],
        namespace="keda",
        programs={"keda-operator": "keda-operator", "keda-metrics-apiserver": "keda-adapter"},
    ),
)


def install(layout: Layout, *, wanted: Sequence[str], load: Load, say: Callable[[str], None]) -> None:
    """Install those of `OPERATORS` that are wanted and wait until they are ready; harmless when they are."""
    chosen = [operator for operator in OPERATORS if operator.name in wanted]
    for operator in chosen:
        say(f"installing {', '.join(operator.programs.values())} ...")
        for tool in operator.programs.values():
            load(images.program(tool, say=say))
        apply(layout, [namespace(operator.namespace)])
        for folder in operator.folders:
            apply(layout, rendered(operator, folder=folder, kubeconfig=layout.kubeconfig))
            manifests.await_kinds(layout.kubeconfig)  # what the next folder holds may be of them
    for place in {operator.namespace for operator in chosen}:
        await_deployments(layout, namespace=place)


def rendered(operator: Operator, *, folder: str, kubeconfig: Path) -> list[Manifest]:
    """What one kustomization of an operator says, with our images and in our namespace."""
    source = tools.module_folder(operator.name, module=operator.module) / folder
    found = manifests.built(source, kubeconfig=kubeconfig)
    for manifest in found:
        adapt(manifest, programs=operator.programs, arguments=operator.arguments)
        move(manifest, namespace=operator.namespace)
    return found


def adapt(manifest: Manifest, *, programs: Mapping[str, str], arguments: Sequence[str] = ()) -> None:
    """Let a Deployment run our builds on a small machine: no processor limit, and ready as soon as it is."""
    if manifest["kind"] != "Deployment":
        return
    pod = manifest["spec"]["template"]["spec"]
    pod["containers"] = [container for container in pod["containers"] if container["name"] in programs]
    for container in pod["containers"]:
        tool = programs[container["name"]]
        container |= {"image": images.name(tool), "imagePullPolicy": "IfNotPresent", "command": [f"/{tool}"]}
        container["args"] = [*container.get("args", []), *arguments]
        limits = container.get("resources", {}).get("limits", {})
        kept = {name: limit for name, limit in limits.items() if name != "cpu"}
        container["resources"] = {"requests": REQUESTS, "limits": kept}
        container["readinessProbe"] |= {"initialDelaySeconds": PROBE_S, "periodSeconds": PROBE_S}


def move(manifest: Manifest, *, namespace: str) -> None:
    """Put a manifest in another namespace, with the accounts that it speaks of; kube-system's own things stay there."""
    for place in (manifest["metadata"], *manifest.get("subjects", [])):
        if place.get("namespace", "kube-system") != "kube-system":
            place["namespace"] = namespace


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

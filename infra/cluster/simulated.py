"""The level `simulated`: the real API server and scheduler before nodes that KWOK pretends, for questions of size.

What is real: every object, every decision of the scheduler and of the controllers, and each node's heartbeats. What is
not: no container starts, and an accelerator is a number in a node's status.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from infra.cluster import api, control_plane, manifests, tools
from infra.cluster.layout import Layout
from infra.cluster.plan import LOOPBACK, Child, Plan, free_ports

MANAGED = ("kwok.x-k8s.io/node", "fake")  # annotation of a node that KWOK keeps alive
LEASE_S = 80  # a quarter of it from one heartbeat to the next: half as often as kubelets, for machines of two cores
WORKERS = 8
STAGES = "kustomize/stage/fast"  # a pod on such a node is ready at once
# What the controllers and the scheduler may ask of the API server in a second. Their own limits are meant for small
# clusters, and would be what is measured.
QUERIES = ("--kube-api-qps=200", "--kube-api-burst=400")


def plan(layout: Layout, *, say: Callable[[str], None]) -> Plan:
    """The level `api` with a scheduler, KWOK, and KubeRay's operator, which makes the pods of a training gang."""
    small = api.plan(layout, say=say)
    lines = {name: [str(tools.path(name, say=say)), *options] for name, options in _options(layout).items()}
    added = [Child(name=name, command=[*api.confinement(), *line]) for name, line in lines.items()]
    return replace(small, level="simulated", children=[*map(_hurried, small.children), *added])


def _options(layout: Layout) -> dict[str, list[str]]:
    """Arguments of the programs that the level `api` lacks; all of them act as the administrator."""
    client = layout.kubeconfig
    metrics, probe = free_ports(2)
    return {
        "kube-scheduler": [*control_plane.scheduler_options(client=client), *QUERIES],
        "kwok": [f"--kubeconfig={client}", f"--config={_configuration(layout)}"],
        "ray-operator": [
            f"--kubeconfig={client}",
            "--enable-leader-election=false",
            f"--metrics-addr={LOOPBACK}:{metrics}",
            f"--health-probe-bind-address={LOOPBACK}:{probe}",
        ],
    }


def _configuration(layout: Layout) -> Path:
    """KWOK's configuration: which nodes are its own, and how they and their pods come to be ready."""
    folder = tools.module_folder("kwok", module="sigs.k8s.io/kwok") / STAGES
    stages = manifests.built(folder, kubeconfig=layout.kubeconfig)
    file = layout.config / "kwok.yaml"
    file.write_text(yaml.safe_dump_all([_settings(), *stages]), encoding="utf-8")
    return file


def _settings() -> dict[str, Any]:
    options = {
        "manageAllNodes": False,
        "manageNodesWithAnnotationSelector": "=".join(MANAGED),
        "nodeLeaseDurationSeconds": LEASE_S,
        "nodeLeaseParallelism": WORKERS,
        "nodePlayStageParallelism": WORKERS,
        "podPlayStageParallelism": WORKERS,
        "enableCRDs": [],
    }
    return {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokConfiguration", "options": options}


def _hurried(child: Child) -> Child:
    more = QUERIES if child.name == "kube-controller-manager" else ()
    return replace(child, command=[*child.command, *more])

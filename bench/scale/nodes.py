"""The nodes that are pretended: machines of eight accelerators in zones, as a cloud would offer them."""

from typing import Any

from infra.cluster.simulated import MANAGED

ACCELERATOR = "nvidia.com/gpu"
ACCELERATORS = 8  # a node
ZONE = "topology.kubernetes.io/zone"
# The last zone is small, so that a gang can be asked for that does not fit.
ZONES = {"zone-a": 240, "zone-b": 240, "zone-c": 240, "zone-d": 240, "zone-e": 40}
SMALL_ZONE = "zone-e"
RESOURCES = {"cpu": "128", "memory": "2Ti", "pods": "110", "ephemeral-storage": "8Ti", ACCELERATOR: str(ACCELERATORS)}


def manifests() -> list[dict[str, Any]]:
    """Every node."""
    return [_node(f"{zone}-{number}", zone=zone) for zone, count in ZONES.items() for number in range(count)]


def _node(name: str, *, zone: str) -> dict[str, Any]:
    key, value = MANAGED
    labels = {ZONE: zone, "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "nvidia.com/gpu.present": "true"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {key: value}},
        "spec": {"taints": [{"key": ACCELERATOR, "value": "present", "effect": "NoSchedule"}]},
        "status": {"allocatable": RESOURCES, "capacity": RESOURCES},
    }

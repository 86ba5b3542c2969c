"""The nodes that are pretended: machines of eight accelerators in zones, as a cloud would offer them."""

from typing import Any

from infra.cluster.simulated import MANAGED

ACCELERATOR = "nvidia.com/gpu"
ACCELERATORS = 8  # a node
ZONE = "topology.kubernetes.io/zone"
# The last zone is small, so that a gang can be asked for that does not fit.
ZONES = {"zone-a": 240, "zone-b": 240, "zone-c": 240, "zone-d": 240, "zone-e": 40}
SMALL_ZONE = "zone-e"
RESOURCES = {"cpu": "128", "memory": "2Ti", "pods": "110", "ephemeral-storage": "8Ti"}


def manifests() -> list[dict[str, Any]]:
    """Every node; the last ones have no accelerator, for what needs none."""
    names = [(f"{zone}-{number}", zone) for zone, count in ZONES.items() for number in range(count)]
    plain = [(f"plain-{number}", zone) for number, zone in enumerate(ZONES)]
    with_accelerators = [_node(name, zone=zone, accelerators=ACCELERATORS) for name, zone in names]
    return [*with_accelerators, *(_node(name, zone=zone, accelerators=0) for name, zone in plain)]


def _node(name: str, *, zone: str, accelerators: int) -> dict[str, Any]:
    key, value = MANAGED
    resources = RESOURCES | ({ACCELERATOR: str(accelerators)} if accelerators else {})
    taint = {"key": ACCELERATOR, "value": "present", "effect": "NoSchedule"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {ZONE: zone, "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
            "annotations": {key: value},
        },
        "spec": {"taints": [taint] if accelerators else []},
        "status": {"allocatable": resources, "capacity": resources},
    }

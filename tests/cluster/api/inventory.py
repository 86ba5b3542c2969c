"""Everything that is in a cluster, to compare before and after."""

import json
from collections.abc import Callable

# Kept by Kubernetes itself, or made by it in every namespace.
OF_KUBERNETES = {"events", "events.events.k8s.io", "leases.coordination.k8s.io", "componentstatuses"}


def inventory(kubectl: Callable[..., str]) -> set[str]:
    """Every object of every kind as ``kind namespace/name``."""
    listed = kubectl("api-resources", "--verbs=list", "--output=name").split()
    kinds = ",".join(sorted(set(listed) - OF_KUBERNETES))
    found = json.loads(kubectl("get", kinds, "--all-namespaces", "--output=json"))["items"]
    return {
        f"{one['kind']} {one['metadata'].get('namespace', '')}/{one['metadata']['name']}"
        for one in found
        if one["metadata"]["name"] != "kube-root-ca.crt"
    }

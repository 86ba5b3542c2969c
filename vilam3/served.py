"""Whether a cluster serves the kinds of an operator as this release needs them, and what it has instead."""

from vilam3 import platform
from vilam3.cluster import Cluster
from vilam3.errors import ClusterError, PrerequisiteError
from vilam3.platform import Operator

FAMILY = "kubeflow.org"  # whose former operators had other kinds for the same


def refuse_unless_served(cluster: Cluster, name: str) -> None:
    """Say that an operator is missing or too old; says nothing where it is neither, or the cluster does not tell.

    Raises:
        PrerequisiteError: it is missing, or lacks a field.
    """
    operator = platform.load().operator(name)
    try:
        lacking = lack_of(cluster, operator)
    except ClusterError:
        return
    if lacking:
        raise PrerequisiteError(f"{cluster.address}: {lacking}; install {operator.name} {operator.version} or newer")


def lack_of(cluster: Cluster, operator: Operator) -> str:
    """What is missing of an operator's kinds, as a clause; empty where nothing is.

    Raises:
        ClusterError: the API server refuses or is away.
    """
    for kind in operator.kinds:
        fields = cluster.spec_fields(kind)
        if fields is None:
            return f"serves no {kind}{_relatives(cluster)}"
        missing = [field for field in operator.fields.get(kind, ()) if field not in fields]
        if missing:
            older = f"{operator.name} is older than {operator.version}"
            return f"{kind} has no {missing[0]}, since {older} (it has {', '.join(sorted(fields))})"
    return ""


def _relatives(cluster: Cluster) -> str:
    found = sorted(group for group in cluster.groups() if group.partition("/")[0].endswith(FAMILY))
    return f" (of Kubeflow it serves {', '.join(found)})" if found else ""

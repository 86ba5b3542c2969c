"""What a cluster lacks for an installation, checked one thing at a time; reads and changes nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vilam3.cluster import Cluster
from vilam3.doctor import Finding
from vilam3.errors import ClusterError
from vilam3.platform import Operator, Platform
from vilam3.served import lack_of

README = "infra/platform/README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What an installation asks of a cluster.

    Attributes:
        operators: Names of operators it cannot do without; the others are noted.
        namespace: Where it is installed.
        secrets: Secrets it refers to, as ``name:key``.
        accelerator: Extended resource its pods ask for; empty where they ask for none.
        storage_class: Class of the claims it makes; empty for the cluster's default, None where it makes none.
    """

    operators: Sequence[str] = ()
    namespace: str = "default"
    secrets: Sequence[str] = ()
    accelerator: str = ""
    storage_class: str | None = None


def examine(cluster: Cluster, needs: Needs, *, platform: Platform) -> list[Finding]:
    """Check everything and return the findings in a fixed order; a check never raises, but for a name nobody knows.

    Raises:
        NotFoundError: `needs` names an operator that the platform does not have.
    """
    for name in needs.operators:
        platform.operator(name)
    reached = _guarded("Kubernetes", lambda: kubernetes(cluster, platform))
    if reached.state == "fail":
        return [reached]
    checks = [
        *((f"operator {one.name}", _operator_check(cluster, one, needs)) for one in platform.operators),
        *((f"secret {one}", _secret_check(cluster, one, needs.namespace)) for one in needs.secrets),
    ]
    if needs.accelerator:
        checks.append(("accelerators", lambda: accelerators(cluster, needs.accelerator)))
    if needs.storage_class is not None:
        wanted = needs.storage_class
        checks.append(("storage class", lambda: storage_class(cluster, wanted)))
    return [reached, *(_guarded(name, check) for name, check in checks)]


def kubernetes(cluster: Cluster, platform: Platform) -> Finding:
    """The version of the API server."""
    major, minor = cluster.version()
    sentence = f"Kubernetes {major}.{minor} at {cluster.address}; {platform.kubernetes} is the lowest."
    if (major, minor) < tuple(int(part) for part in platform.kubernetes.split(".")):
        remedy = f"Upgrade the cluster to {platform.kubernetes} or newer, or choose another context."
        return Finding(name="Kubernetes", state="fail", sentence=sentence, remedy=remedy)
    return Finding(name="Kubernetes", state="ok", sentence=sentence)


def operator(cluster: Cluster, wanted: Operator, *, required: bool) -> Finding:
    """Whether an operator's kinds are served and its controller runs, and whether it is the version we know."""
    name = f"operator {wanted.name}"
    missing = sorted(set(wanted.kinds) - cluster.kinds())
    if missing:
        sentence = f"{wanted.name} is not there: no {missing[0]}. It is for {wanted.purpose}."
        remedy = f"Install it ({README}): {wanted.install}"
        return Finding(name=name, state="fail" if required else "note", sentence=sentence, remedy=remedy)
    if wanted.fields and (lacking := lack_of(cluster, wanted)):
        sentence, remedy = f"{lacking[0].upper()}{lacking[1:]}.", f"Upgrade it ({README}): {wanted.install}"
        return Finding(name=name, state="fail" if required else "note", sentence=sentence, remedy=remedy)
    image = cluster.deployments().get(wanted.deployment)
    if not image:
        state = "has no ready pod" if image == "" else "is not there"
        sentence = f"{wanted.name} has its kinds, but its controller {wanted.deployment} {state}."
        remedy = f"Look at it: kubectl get pods --all-namespaces | grep {wanted.deployment}"
        return Finding(name=name, state="fail" if required else "note", sentence=sentence, remedy=remedy)
    if wanted.version not in image:
        sentence = f"{wanted.name} runs {image}; this release was made for {wanted.version}."
        return Finding(name=name, state="note", sentence=sentence, remedy="If something fails, try that version.")
    return Finding(name=name, state="ok", sentence=f"{wanted.name} {wanted.version} runs.")


def secret(cluster: Cluster, reference: str, *, namespace: str) -> Finding:
    """Whether a Secret is there and has the key that is read from it."""
    name, _, key = reference.partition(":")
    keys = cluster.secret_keys(name, namespace=namespace)
    shown = f"secret {name}"
    make = f"kubectl -n {namespace} create secret generic {name} --from-literal={key}=..."
    if keys is None:
        sentence = f"There is no Secret {name} in namespace {namespace}."
        return Finding(name=shown, state="fail", sentence=sentence, remedy=f"Make it: {make}")
    if key not in keys:
        sentence = f"Secret {name} has no key {key}; it has {', '.join(sorted(keys)) or 'none'}."
        return Finding(name=shown, state="fail", sentence=sentence, remedy=f"Add the key, or make it again: {make}")
    return Finding(name=shown, state="ok", sentence=f"Secret {name} has the key {key}.")


def accelerators(cluster: Cluster, resource: str) -> Finding:
    """Whether any node offers the accelerator."""
    count = cluster.allocatable(resource)
    if count:
        return Finding(name="accelerators", state="ok", sentence=f"The nodes offer {count} of {resource}.")
    return Finding(
        name="accelerators",
        state="fail",
        sentence=f"No node offers {resource}.",
        remedy="Install the GPU operator and wait for its validator, or name another accelerator.resource.",
    )


def storage_class(cluster: Cluster, wanted: str) -> Finding:
    """Whether claims will be served."""
    classes = cluster.storage_classes()
    found = wanted in classes if wanted else any(classes.values())
    if found:
        shown = wanted or next(name for name, is_default in classes.items() if is_default)
        return Finding(name="storage class", state="ok", sentence=f"Claims are served by {shown}.")
    what = f"no StorageClass {wanted}" if wanted else "no default StorageClass"
    return Finding(
        name="storage class",
        state="fail",
        sentence=f"The cluster has {what}; it has {', '.join(sorted(classes)) or 'none'}.",
        remedy="Set storage.className to one of these, or install a provisioner.",
    )


def _operator_check(cluster: Cluster, wanted: Operator, needs: Needs) -> Callable[[], Finding]:
    return lambda: operator(cluster, wanted, required=wanted.name in needs.operators)


def _secret_check(cluster: Cluster, reference: str, namespace: str) -> Callable[[], Finding]:
    return lambda: secret(cluster, reference, namespace=namespace)


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except ClusterError as error:
        where, _, remedy = str(error).rpartition("; ")
        return Finding(name=name, state="fail", sentence=f"{where}.", remedy=f"{remedy[0].upper()}{remedy[1:]}.")

"""Makes a job, or finds the one there is: however many ask, and however often, one job runs."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from vilam3.cluster import Cluster
from vilam3.errors import ClusterError, ClusterOutOfReachError, OutOfReachError, UserError
from vilam3.launch.back_end import BackEnd
from vilam3.launch.failure import classify
from vilam3.launch.job import NEWS, REQUEST, TEMPLATE, Request, Template, render
from vilam3.launch.status import Observation
from vilam3.served import refuse_unless_served
from vilam3.train.news import heard, mark

DISRUPTED = "DisruptionTarget"
TRIES, TRY_EVERY_S = 30, 10.0
GONE_S = 1800.0  # KubeRay stops a job before it lets go of it, and pods may take all of their grace

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a launcher works.

    Attributes:
        cluster: The cluster.
        namespace: Of its jobs.
        pod: Name of the pod that the launcher runs in; empty elsewhere.
    """

    cluster: Cluster
    namespace: str
    pod: str = ""

    def owner(self) -> dict[str, Any] | None:
        """The object that the launcher's pod belongs to, as a reference: a run of a pipeline. None elsewhere."""
        if not self.pod:
            return None
        pod = patiently(lambda: self.cluster.pod(self.pod, namespace=self.namespace))
        owners = (pod or {}).get("metadata", {}).get("ownerReferences") or []
        found = next((one for one in owners if one["kind"] == "Workflow"), next(iter(owners), None))
        if found is None:
            return None
        kept = {key: found[key] for key in ("apiVersion", "kind", "name", "uid")}
        return {**kept, "controller": False, "blockOwnerDeletion": False}

    def is_moved(self) -> bool:
        """Whether the launcher's pod ends because its machine is emptied, and not because the run is."""
        if not self.pod:
            return False
        pod = self.cluster.pod(self.pod, namespace=self.namespace)
        conditions = ((pod or {}).get("status") or {}).get("conditions") or ()
        return any(one["type"] == DISRUPTED and one["status"] == "True" for one in conditions)


class Attached:
    """The job of a request, which is there; see `vilam3.launch.watch.Source`."""

    def __init__(self, place: Place, back_end: BackEnd, found: Mapping[str, Any]) -> None:
        """Hold on to the job as it was found."""
        self._place = place
        self._back_end = back_end
        self.name: str = found["metadata"]["name"]
        self.uid: str = found["metadata"]["uid"]
        self.news_uri: str = found["metadata"]["annotations"][NEWS]

    def observe(self) -> Observation | None:
        """See `Source`; it is gone, too, where another has taken its name."""
        cluster, namespace = self._place.cluster, self._place.namespace
        found = cluster.read(self._back_end.kind, self.name, namespace=namespace)
        if found is None or found["metadata"]["uid"] != self.uid:
            return None
        selector = self._back_end.selector(found)
        pods = cluster.pods(selector, namespace=namespace) if selector else []
        return self._back_end.observed(found, pods, heard(self.news_uri))

    def mark(self) -> None:
        """Let it know that it is watched."""
        mark(self.news_uri)

    def end(self) -> None:
        """Delete it, which gives its machines back."""
        kind, waits = self._back_end.kind, self._back_end.lasts_until_pods_end
        cluster, namespace = self._place.cluster, self._place.namespace
        patiently(lambda: cluster.delete(kind, self.name, namespace=namespace, uid=self.uid, after_its_pods=waits))


def attach(
    request: Request,
    *,
    template: Template,
    place: Place,
    run: Mapping[str, Any] | None,
    say: Callable[[str], None],
    every_s: float = TRY_EVERY_S,
) -> Attached:
    """Create the job of a request, or take up the one there is; one that machines had lost is made again.

    Args:
        request: What to train.
        template: Of the installation.
        place: Where.
        run: Reference to the owner.
        say: Takes what was done.
        every_s: Between two looks at a job that is on its way out.

    Raises:
        UserError: there is a job of that name for something else.
        ClusterError: the API server refuses, or is away for too long.
    """
    until, back_end = time.monotonic() + GONE_S, template.back_end
    while time.monotonic() < until:
        found = patiently(lambda: place.cluster.read(back_end.kind, request.name, namespace=place.namespace))
        if found is None:
            if _make(request, template=template, place=place, run=run):
                say(f"job {request.name} is made in namespace {place.namespace}")
            continue  # to read it, or the one of somebody who was quicker
        if "deletionTimestamp" in found["metadata"]:
            time.sleep(every_s)
            continue
        _refuse_another(found, request, back_end)
        attached = Attached(place, back_end, found)
        if not _is_to_be_replaced(attached, found, template):
            return attached
        say(f"job {request.name} was lost to machines, or the installation has changed since; it is made again")
        attached.end()
    gone = f"is on its way out for more than {GONE_S:.0f} s"
    raise ClusterError(f"job {request.name}: {gone}; look at the log of its operator")


def _make(request: Request, *, template: Template, place: Place, run: Mapping[str, Any] | None) -> bool:
    """Whether it was made; False where somebody else was quicker."""
    kind = template.back_end.kind
    manifest = render(request, template=template, mark=secrets.token_hex(4), owner=run)
    try:
        return patiently(lambda: place.cluster.create(kind, manifest, namespace=place.namespace))
    except ClusterError:
        refuse_unless_served(place.cluster, template.back_end.operator)  # which says more than the server
        raise


def _refuse_another(found: Mapping[str, Any], request: Request, back_end: BackEnd) -> None:
    annotations = found["metadata"].get("annotations") or {}
    if annotations.get(REQUEST) != request.digest or NEWS not in annotations:
        raise UserError(
            f"job {request.name}: is there already with another corpus, base, strategy, checkpoints or number of "
            f"workers; give another --run-id, or delete it: kubectl delete {back_end.kind.plural} {request.name}"
        )


def _is_to_be_replaced(attached: Attached, found: Mapping[str, Any], template: Template) -> bool:
    """Whether it has failed, and another try may do better."""
    last = patiently(attached.observe)
    if last is None or last.phase != "over":
        return False
    if last.has_succeeded:
        return not last.news.model  # its last word is lost; another takes the finished stage over at once
    return classify(last).cause.is_retryable or found["metadata"]["annotations"].get(TEMPLATE) != template.digest


def patiently(call: Callable[[], T]) -> T:
    """Call again where the API server or the store is away for a while."""
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except (ClusterOutOfReachError, OutOfReachError):
            if attempt == TRIES:
                raise
            time.sleep(TRY_EVERY_S)
    raise AssertionError

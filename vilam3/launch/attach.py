"""Makes a job, or finds the one there is: however many ask, and however often, one job runs."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from vilam3.cluster import Cluster
from vilam3.errors import ClusterError, ClusterOutOfReachError, OutOfReachError, UserError
from vilam3.launch.failure import classify
from vilam3.launch.job import KIND, NEWS, REQUEST, TEMPLATE, Request, Template, render
from vilam3.launch.status import CLUSTER, observed
from vilam3.train.news import News, heard, mark

DISRUPTED = "DisruptionTarget"
TRIES, TRY_EVERY_S = 30, 10.0
GONE_S = 600.0  # KubeRay stops a job before it lets go of it

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

    def __init__(self, place: Place, found: Mapping[str, Any]) -> None:
        """Hold on to the job as it was found."""
        self._place = place
        self.name: str = found["metadata"]["name"]
        self.uid: str = found["metadata"]["uid"]
        self.news_uri: str = found["metadata"]["annotations"][NEWS]

    def job(self) -> dict[str, Any] | None:
        """The job; None where it is gone, or another has taken its name."""
        found = self._place.cluster.read(KIND, self.name, namespace=self._place.namespace)
        return found if found is not None and found["metadata"]["uid"] == self.uid else None

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """Its pods."""
        return self._place.cluster.pods(selector, namespace=self._place.namespace)

    def news(self) -> News | None:
        """Its newest word."""
        return heard(self.news_uri)

    def mark(self) -> None:
        """Let it know that it is watched."""
        mark(self.news_uri)

    def end(self) -> None:
        """Delete it, which gives its machines back."""
        patiently(lambda: self._place.cluster.delete(KIND, self.name, namespace=self._place.namespace, uid=self.uid))


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
    until = time.monotonic() + GONE_S
    while time.monotonic() < until:
        found = patiently(lambda: place.cluster.read(KIND, request.name, namespace=place.namespace))
        if found is None:
            manifest = render(request, template=template, mark=secrets.token_hex(4), owner=run)
            if patiently(lambda: place.cluster.create(KIND, manifest, namespace=place.namespace)):  # noqa: B023 - called at once
                say(f"job {request.name} is made in namespace {place.namespace}")
            continue  # to read it, or the one of somebody who was quicker
        if "deletionTimestamp" in found["metadata"]:
            time.sleep(every_s)
            continue
        _refuse_another(found, request)
        attached = Attached(place, found)
        if not _is_to_be_replaced(attached, found, template):
            return attached
        say(f"job {request.name} was lost to machines, or the installation has changed since; it is made again")
        attached.end()
    raise ClusterError(f"job {request.name}: is on its way out for more than {GONE_S:.0f} s; look at KubeRay's log")


def _refuse_another(found: Mapping[str, Any], request: Request) -> None:
    annotations = found["metadata"].get("annotations") or {}
    if annotations.get(REQUEST) != request.digest or NEWS not in annotations:
        raise UserError(
            f"job {request.name}: is there already with another corpus, base, strategy, checkpoints or number of "
            "workers; give another --run-id, or delete it: kubectl delete rayjob " + request.name
        )


def _is_to_be_replaced(attached: Attached, found: Mapping[str, Any], template: Template) -> bool:
    """Whether it has failed, and another try may do better."""
    name = (found.get("status") or {}).get("rayClusterName")
    pods = patiently(lambda: attached.pods(f"{CLUSTER}={name}")) if name else []
    last = observed(found, pods, patiently(attached.news))
    if last.phase != "over":
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

"""What a RayJob and its pods say: which phase it is in, how it ended, and what befell its pods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vilam3.train.news import News

Phase = Literal["queued", "starting", "running", "over"]
Incident = Literal["image", "configuration", "memory", "preempted", "node lost", "evicted", "killed"]

OVER = frozenset({"Complete", "Failed", "ValidationFailed"})
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
NOT_TAKEN_UP = frozenset({"", "Suspending", "Suspended"})
WORKER = ("ray.io/node-type", "worker")
CLUSTER = "ray.io/cluster"
KILLED = 137  # 128 and SIGKILL
WAITING: Mapping[str, Incident] = {
    "ErrImagePull": "image",
    "ImagePullBackOff": "image",
    "InvalidImageName": "image",
    "ErrImageNeverPull": "image",
    "CreateContainerConfigError": "configuration",
    "CreateContainerError": "configuration",
}
REASONS: Mapping[str, Incident] = {
    "Preempting": "preempted",
    "NodeLost": "node lost",
    "NodeShutdown": "node lost",
    "Terminated": "node lost",  # by the kubelet of a machine that shuts down
    "Evicted": "evicted",
}
DISRUPTIONS: Mapping[str, Incident] = {
    "PreemptionByScheduler": "preempted",
    "DeletionByTaintManager": "node lost",
    "DeletionByPodGC": "node lost",
    "EvictionByEvictionAPI": "evicted",
    "TerminationByKubelet": "evicted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What befell a pod.

    Attributes:
        incident: What.
        pod: Its name.
        node: Its machine; empty where it had none.
        is_standing: It is so now, and may pass, such as an image that cannot be pulled.
        detail: What Kubernetes says of it.
    """

    incident: Incident
    pod: str
    node: str
    is_standing: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A job at one moment.

    Attributes:
        phase: Where it stands.
        findings: What befell its pods.
        news: Its own newest word.
        job_status: What Ray says of it; empty before it does.
        reason: Why KubeRay gave it up.
        message: What KubeRay passes on, with the end of the log.
    """

    phase: Phase
    findings: tuple[Finding, ...] = ()
    news: News = News()  # noqa: RUF009 - frozen
    job_status: str = ""
    reason: str = ""
    message: str = ""

    @property
    def has_succeeded(self) -> bool:
        """Whether it came to its end."""
        return self.phase == "over" and self.job_status == "SUCCEEDED"

    @property
    def step(self) -> int:
        """Steps done."""
        return self.news.step


def observed(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], news: News | None) -> Observation:
    """Put together what the cluster and the job itself say."""
    status = job.get("status") or {}
    told = news or News()
    return Observation(
        phase=_phase(job, pods, told),
        findings=tuple(finding for pod in pods for finding in findings_of(pod)),
        news=told,
        job_status=str(status.get("jobStatus", "")),
        reason=str(status.get("reason", "")),
        message=str(status.get("message", "")),
    )


def _phase(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], news: News) -> Phase:
    status = job.get("status") or {}
    deployment = status.get("jobDeploymentStatus", "")
    if deployment in OVER or (status.get("jobStatus") in ENDED and deployment != "Retrying"):
        return "over"
    if (job.get("spec") or {}).get("suspend") or deployment in NOT_TAKEN_UP:
        return "queued"
    workers = [pod for pod in pods if pod["metadata"].get("labels", {}).get(WORKER[0]) == WORKER[1]]
    if workers and not any(pod["spec"].get("nodeName") for pod in workers):
        return "queued"  # none of them holds an accelerator
    return "running" if news.step and status.get("jobStatus") == "RUNNING" else "starting"


def findings_of(pod: Mapping[str, Any]) -> list[Finding]:
    """What befell one pod."""
    name, node = pod["metadata"]["name"], (pod.get("spec") or {}).get("nodeName", "")
    status = pod.get("status") or {}
    found: list[Finding] = []
    for condition in status.get("conditions") or ():
        incident = DISRUPTIONS.get(condition.get("reason", ""))
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True" and incident:
            found.append(Finding(incident=incident, pod=name, node=node, detail=condition.get("message", "")))
    if incident := REASONS.get(status.get("reason", "")):
        found.append(Finding(incident=incident, pod=name, node=node, detail=status.get("message", "")))
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        found += _of_container(container, pod=name, node=node)
    return found


def _of_container(container: Mapping[str, Any], *, pod: str, node: str) -> list[Finding]:
    found = []
    waiting = (container.get("state") or {}).get("waiting") or {}
    if incident := WAITING.get(waiting.get("reason", "")):
        detail = waiting.get("message", "")
        found.append(Finding(incident=incident, pod=pod, node=node, is_standing=True, detail=detail))
    for place in ("state", "lastState"):
        ended = (container.get(place) or {}).get("terminated") or {}
        if ended.get("reason") == "OOMKilled":
            found.append(Finding(incident="memory", pod=pod, node=node))
        elif ended.get("exitCode") == KILLED:
            found.append(Finding(incident="killed", pod=pod, node=node))
    return found

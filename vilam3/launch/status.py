"""What a job is seen to be: its phase, how it ended, and what befell its pods, whose statuses are read here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vilam3.train.news import News

Phase = Literal["queued", "starting", "running", "over"]
Outcome = Literal["", "succeeded", "failed", "stopped"]
Incident = Literal["image", "configuration", "memory", "preempted", "node lost", "evicted", "killed"]

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
        outcome: How its processes ended, as far as its operator says; empty before it does.
        reason: Why its operator gave it up.
        message: What its operator passes on, with the end of a log.
        ends_with_a_pod: Whatever befalls a pod ends the job, and the processes of the others are asked to end.
    """

    phase: Phase
    findings: tuple[Finding, ...] = ()
    news: News = News()  # noqa: RUF009 - frozen
    outcome: Outcome = ""
    reason: str = ""
    message: str = ""
    ends_with_a_pod: bool = False

    @property
    def has_succeeded(self) -> bool:
        """Whether it came to its end."""
        return self.phase == "over" and self.outcome == "succeeded"

    @property
    def step(self) -> int:
        """Steps done."""
        return self.news.step


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

"""The RayJob of KubeRay: Ray starts the processes in a cluster of the job's own, and replaces those that are lost."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from vilam3.cluster import Kind
from vilam3.launch.back_end import RECIPE_VARIABLE, Manifest, Work
from vilam3.launch.status import Observation, Outcome, Phase, findings_of
from vilam3.train.news import News

OVER = frozenset({"Complete", "Failed", "ValidationFailed"})
OUTCOMES: Mapping[str, Outcome] = {"SUCCEEDED": "succeeded", "FAILED": "failed", "STOPPED": "stopped"}
NOT_TAKEN_UP = frozenset({"", "Suspending", "Suspended"})
WORKER = ("ray.io/node-type", "worker")
CLUSTER = "ray.io/cluster"


class RayJobs:
    """See `vilam3.launch.back_end.BackEnd`."""

    kind = Kind(group="ray.io", version="v1", plural="rayjobs")
    operator = "kuberay"
    lasts_until_pods_end = False  # each job has a cluster of another name

    def verify(self, template: Mapping[str, Any]) -> None:
        """See `BackEnd`."""
        cluster = template["spec"]["rayClusterSpec"]
        _ = cluster["workerGroupSpecs"][0]["template"], cluster["headGroupSpec"]["template"]["spec"]["containers"][0]

    def fill(self, manifest: Manifest, work: Work) -> None:
        """The head runs a shell; the number of its workers is fixed, so that Kueue can count them."""
        words = ["vilam3", "train", *work.options, "--launcher", "ray", "--workers", str(work.workers)]
        spec = manifest["spec"]
        spec["entrypoint"] = f'{shlex.join(words)} --resolved-recipe "${RECIPE_VARIABLE}"'
        cluster = spec["rayClusterSpec"]
        (container, *_) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
        container["env"].append(work.variable)
        number = {"replicas": work.pods, "minReplicas": work.pods, "maxReplicas": work.pods}
        cluster["workerGroupSpecs"][0] |= number

    def selector(self, job: Mapping[str, Any]) -> str:
        """See `BackEnd`."""
        name = (job.get("status") or {}).get("rayClusterName")
        return f"{CLUSTER}={name}" if name else ""

    def observed(
        self, job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], news: News | None
    ) -> Observation:  # fmt: skip
        """See `BackEnd`."""
        status = job.get("status") or {}
        told = news or News()
        return Observation(
            phase=_phase(job, pods, told),
            findings=tuple(finding for pod in pods for finding in findings_of(pod)),
            news=told,
            outcome=OUTCOMES.get(status.get("jobStatus", ""), ""),
            reason=str(status.get("reason", "")),
            message=str(status.get("message", "")),
        )


def _phase(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], news: News) -> Phase:
    status = job.get("status") or {}
    deployment = status.get("jobDeploymentStatus", "")
    if deployment in OVER or (status.get("jobStatus") in OUTCOMES and deployment != "Retrying"):
        return "over"
    if (job.get("spec") or {}).get("suspend") or deployment in NOT_TAKEN_UP:
        return "queued"
    workers = [pod for pod in pods if pod["metadata"].get("labels", {}).get(WORKER[0]) == WORKER[1]]
    if workers and not any(pod["spec"].get("nodeName") for pod in workers):
        return "queued"  # none of them holds an accelerator
    return "running" if news.step and status.get("jobStatus") == "RUNNING" else "starting"

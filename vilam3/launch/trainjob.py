"""The TrainJob of Kubeflow Trainer: torchrun starts the processes in every pod, and all end when one is lost.

Trainer makes a JobSet of a training runtime and of what the job patches in it, and tells each pod by ``PET_`` variables
who it is among how many. Nothing is replaced within a job: the launcher makes it again, and it goes on from its last
checkpoint.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vilam3.cluster import Kind
from vilam3.launch.back_end import RECIPE_VARIABLE, Manifest, Work, escaped
from vilam3.launch.status import Observation, Phase, findings_of
from vilam3.train.news import News

MANAGER = "vilam3/launcher"  # of the patch that the template has
NODE = "node"  # what Trainer calls the job and the container that train
JOB_SET = "jobset.sigs.k8s.io/jobset-name"
DEFAULT_GRACE_S = 30  # of Kubernetes
AFTER_PROCESSES_S = 30  # of the grace, for torchrun and the container's own end


class TrainJobs:
    """See `vilam3.launch.back_end.BackEnd`."""

    kind = Kind(group="trainer.kubeflow.org", version="v1alpha1", plural="trainjobs")
    operator = "trainer"
    lasts_until_pods_end = True  # its JobSet and pods are named after it

    def verify(self, template: Mapping[str, Any]) -> None:
        """See `BackEnd`."""
        spec = template["spec"]
        _ = spec["runtimeRef"]["name"], spec["trainer"]["env"][0], _pod(template)["containers"][0]

    def fill(self, manifest: Manifest, work: Work) -> None:
        """No shell is needed: Kubernetes itself puts the recipe into the command."""
        grace_s = int(_pod(manifest).get("terminationGracePeriodSeconds", DEFAULT_GRACE_S))
        # torchrun would kill its processes half a minute after it is asked to end, whether or not they have saved.
        save_s = grace_s - min(AFTER_PROCESSES_S, grace_s // 4)
        start = ["torchrun", f"--shutdown-timeout={save_s}", "-m", "vilam3", "train"]
        options = [escaped(word) for word in work.options]
        recipe = ["--launcher", "torchrun", "--resolved-recipe", f"$({RECIPE_VARIABLE})"]
        trainer = manifest["spec"]["trainer"]
        trainer["command"] = [*start, *options, *recipe]
        trainer["env"].append(work.variable)
        trainer |= {"numNodes": work.pods, "numProcPerNode": work.workers // work.pods}

    def selector(self, job: Mapping[str, Any]) -> str:
        """See `BackEnd`."""
        return f"{JOB_SET}={job['metadata']['name']}"

    def observed(
        self, job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], news: News | None
    ) -> Observation:  # fmt: skip
        """See `BackEnd`."""
        conditions = _true_conditions(job)
        failed = conditions.get("Failed", {})
        told = news or News()
        return Observation(
            phase=_phase(job, pods, told),
            findings=tuple(finding for pod in pods for finding in findings_of(pod)),
            news=told,
            outcome="succeeded" if "Complete" in conditions else "failed" if failed else "",
            reason=str(failed.get("reason", "")),
            message="\n".join([str(failed.get("message", "")), *_last_words(pods)]).strip(),
            ends_with_a_pod=True,
        )


def _pod(template: Mapping[str, Any]) -> dict[str, Any]:
    """The pod of the template's own patch."""
    patches = template["spec"]["runtimePatches"]
    patch = next(one for one in patches if one["manager"] == MANAGER)["trainingRuntimeSpec"]["template"]["spec"]
    job = next(one for one in patch["replicatedJobs"] if one["name"] == NODE)
    pod: dict[str, Any] = job["template"]["spec"]["template"]["spec"]
    return pod


def _true_conditions(job: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return {one["type"]: one for one in conditions if one["status"] == "True"}


def _phase(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], news: News) -> Phase:
    if _true_conditions(job).keys() & {"Complete", "Failed"}:
        return "over"
    if (job.get("spec") or {}).get("suspend") or not any(pod["spec"].get("nodeName") for pod in pods):
        return "queued"  # no pod of it holds an accelerator
    # An error in the news is of those before it was suspended, and so is their step.
    return "running" if news.step and not news.kind else "starting"


def _last_words(pods: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The end of the log of each container that has failed, where its pod keeps it."""
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses") or ():
            ended = (container.get("state") or {}).get("terminated") or {}
            if ended.get("exitCode") and ended.get("message"):
                yield str(ended["message"])

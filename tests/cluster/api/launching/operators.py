"""What the operators of jobs write into a status, and which pods they make, as far as a launcher reads them.

Nothing of ours is replaced by this: it takes the part of KubeRay, and of Kubeflow Trainer with its JobSet.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

Status = Mapping[str, Any]


class Operator(Protocol):
    """Of one kind of job."""

    plural: str
    launcher: str

    def workers(self, job: str) -> Mapping[str, str]:
        """Labels of a worker's pod."""
        ...

    def preparing(self) -> Status:
        """Pods are being made."""
        ...

    def running(self) -> Status:
        """All pods run."""
        ...

    def suspended(self) -> Status:
        """As a queue has it wait."""
        ...

    def failed(self, message: str = "", reason: str = "") -> Status:
        """It is over."""
        ...

    def succeeded(self) -> Status:
        """Likewise."""
        ...

    def own_failures(self) -> Mapping[str, tuple[Status, int]]:
        """Ends that only it can tell of: status and the launcher's exit code, by the cause that is named."""
        ...


class KubeRay:
    """A RayJob's status says what Ray says."""

    plural, launcher = "rayjobs", "rayjob"

    def workers(self, job: str) -> Mapping[str, str]:
        """See `Operator`."""
        assert job
        return {"ray.io/cluster": "c", "ray.io/node-type": "worker"}

    def preparing(self) -> Status:
        """See `Operator`."""
        return {"jobDeploymentStatus": "Initializing", "rayClusterName": "c"}

    def running(self) -> Status:
        """See `Operator`."""
        return {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "c"}

    def suspended(self) -> Status:
        """See `Operator`."""
        return {"jobDeploymentStatus": "Suspended"}

    def failed(self, message: str = "", reason: str = "") -> Status:
        """See `Operator`."""
        told = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": reason or "AppFailed"}
        head = "Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):\n"
        return {**told, "rayClusterName": "c", "message": head + message if message else ""}

    def succeeded(self) -> Status:
        """See `Operator`."""
        return {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}

    def own_failures(self) -> Mapping[str, tuple[Status, int]]:
        """See `Operator`."""
        return {
            "stopped": ({**self.failed(), "jobStatus": "STOPPED"}, 1),
            "submission": ({**self.failed(reason="SubmissionFailed"), "jobStatus": ""}, 75),
            "refused": ({"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed"}, 1),
        }


class Trainer:
    """A TrainJob's status has the conditions of its JobSet, and says nothing while pods run."""

    plural, launcher = "trainjobs", "trainjob"

    def workers(self, job: str) -> Mapping[str, str]:
        """See `Operator`."""
        return {
            "jobset.sigs.k8s.io/jobset-name": job,
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "batch.kubernetes.io/job-name": f"{job}-node-0",
        }

    def preparing(self) -> Status:
        """See `Operator`."""
        return {"jobsStatus": [_jobs(active=1)]}

    def running(self) -> Status:
        """See `Operator`."""
        return {"jobsStatus": [_jobs(active=1, ready=1)]}

    def suspended(self) -> Status:
        """See `Operator`."""
        waiting = _condition("Suspended", reason="Suspended", message="TrainJob is suspended")
        return {"conditions": [waiting], "jobsStatus": [_jobs(suspended=1)]}

    def failed(self, message: str = "", reason: str = "") -> Status:
        """See `Operator`."""
        why = message or "jobset failed due to reaching max number of restarts (first failed job: j-node-0)"
        return {"conditions": [_condition("Failed", reason=reason or "ReachedMaxRestarts", message=why)]}

    def succeeded(self) -> Status:
        """See `Operator`."""
        done = _condition("Complete", reason="AllJobsCompleted", message="jobset completed successfully")
        return {"conditions": [done], "jobsStatus": [_jobs(succeeded=1)]}

    def own_failures(self) -> Mapping[str, tuple[Status, int]]:
        """See `Operator`."""
        return {
            "stalled": (self.failed(reason="DeadlineExceeded"), 75),
            "refused": (self.failed(reason="TrainingRuntimeNotSupported"), 1),
        }


def _condition(kind: str, *, reason: str, message: str) -> dict[str, str]:
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": at}


def _jobs(**counts: int) -> dict[str, Any]:
    return {"name": "node", **dict.fromkeys(("ready", "succeeded", "failed", "active", "suspended"), 0), **counts}


OPERATORS: Mapping[str, Operator] = {one.launcher: one for one in (KubeRay(), Trainer())}

"""Why a job failed, in one sentence, and whether starting it again would help."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from vilam3 import errors
from vilam3.errors import (
    DivergedError,
    JobFailedError,
    JobLostError,
    PreemptedError,
    SupersededError,
    UnfitError,
    UserError,
    VilaM3Error,
)
from vilam3.launch.status import Finding, Incident, Observation
from vilam3.train.news import News

SHOWN_CHARACTERS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A class of failures.

    Attributes:
        name: As tags have it.
        is_retryable: The same again may well succeed, since machines were at fault.
        means: What happened.
        remedy: What to do.
    """

    name: str
    is_retryable: bool
    means: str
    remedy: str


def _cause(name: str, means: str, remedy: str, *, is_retryable: bool = False) -> Cause:
    return Cause(name=name, is_retryable=is_retryable, means=means, remedy=remedy)


USER = _cause("user", "the job refused its input", "mend what it names and start the run again")
DIVERGED = _cause("diverged", "the loss became no number", "look at the samples it names; lower the learning rate")
MEMORY = _cause(
    "host-memory", "a pod was killed for want of memory", "raise training.workers.memory, or lower micro_batch"
)
GPU_MEMORY = _cause(
    "gpu-memory", "an accelerator has too little memory", "lower micro_batch, or take zero3 or more accelerators"
)
IMAGE = _cause("image", "an image cannot be pulled", "check image.registry, image.tag and image.pullSecrets")
CONFIGURATION = _cause(
    "configuration", "a pod cannot be started as it is written", "make the Secret or claim that it names"
)
STOPPED = _cause("stopped", "somebody ended the job", "start the run again if that was not meant")
REFUSED = _cause("refused", "its operator does not accept the job", "upgrade chart and operator to versions that fit")
UNKNOWN = _cause("unknown", "the job failed", "read the logs of its pods: kubectl logs")
PREEMPTED = _cause(
    "preempted", "work of more importance took the machines", "it goes on from its checkpoint", is_retryable=True
)
NODE_LOST = _cause("node-lost", "a machine was lost", "it goes on from its checkpoint elsewhere", is_retryable=True)
EVICTED = _cause("evicted", "a machine was emptied", "it goes on from its checkpoint elsewhere", is_retryable=True)
KILLED = _cause("killed", "a process was killed from outside", "it goes on from its checkpoint", is_retryable=True)
NCCL = _cause(
    "nccl",
    "accelerators lost each other",
    "if it comes again, look at training.network and the links",
    is_retryable=True,
)
XID = _cause("xid", "an accelerator reported a fault", "have the machine looked at; cordon it", is_retryable=True)
UNFIT = _cause("unfit", "a machine is not fit for training", "cordon the machine that it names", is_retryable=True)
SUBMISSION = _cause("submission", "the head did not take the job", "it is started again", is_retryable=True)
STALLED = _cause("stalled", "no step was finished for too long", "look at the links and at storage", is_retryable=True)
SLOW_START = _cause(
    "slow-start",
    "machines were there, and no step was finished",
    "look at image size and at storage",
    is_retryable=True,
)
CAUSES = (
    USER, DIVERGED, MEMORY, GPU_MEMORY, IMAGE, CONFIGURATION, STOPPED, REFUSED, UNKNOWN, PREEMPTED, NODE_LOST, EVICTED,
    KILLED, NCCL, XID, UNFIT, SUBMISSION, STALLED, SLOW_START,
)  # fmt: skip

BY_INCIDENT: Mapping[Incident, Cause] = {
    "configuration": CONFIGURATION,
    "image": IMAGE,
    "memory": MEMORY,
    "node lost": NODE_LOST,
    "preempted": PREEMPTED,
    "evicted": EVICTED,
    "killed": KILLED,
}  # the first that befell a pod explains the others: a lost machine kills its processes
BY_TEXT: tuple[tuple[re.Pattern[str], Cause], ...] = (
    (re.compile(r"\bXid\b[ :(]*(PCI|\d)|uncorrectable ECC|fallen off the bus"), XID),
    (re.compile(r"CUDA out of memory|CUDA error: out of memory"), GPU_MEMORY),
    # Names of variables, such as NCCL_IB_TIMEOUT, are in many a log and mean nothing.
    (re.compile(r"NCCL error|NCCL [a-z ]{1,40}timed? ?out|nccl(System|Remote|Internal)Error|Watchdog caught"), NCCL),
    (re.compile(r"ray\.exceptions\.OutOfMemoryError|running low on memory"), MEMORY),
    # Ray says it like this, and torchrun with a colon, of the first process that failed.
    (re.compile(r"failed with exit code 75\b|exitcode *: 75\b"), PREEMPTED),
    (re.compile(r"failed with exit code 2\b|exitcode *: 2\b"), USER),
    (re.compile(r"failed with exit code (137|-9)\b|exitcode *: -9\b"), KILLED),
)
BY_REASON: Mapping[str, Cause] = {
    "ValidationFailed": REFUSED,
    "SubmissionFailed": SUBMISSION,
    "JobDeploymentStatusTransitionGracePeriodExceeded": SUBMISSION,
    "DeadlineExceeded": STALLED,
    "PreRunningDeadlineExceeded": SLOW_START,
    "TrainingRuntimeNotSupported": REFUSED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a job failed.

    Attributes:
        cause: The class.
        where: Pod and machine; empty where it is no single one.
        detail: What the cluster or the job itself says.
    """

    cause: Cause
    where: str = ""
    detail: str = ""

    @property
    def sentence(self) -> str:
        """For people: what, where, why, what next."""
        where = f" ({self.where})" if self.where else ""
        detail = f": {self.detail}" if self.detail else ""
        again = "starting it again may help" if self.cause.is_retryable else "starting it again would not help"
        return f"{self.cause.means}{where}{detail}; {self.cause.remedy}; {again}"

    def error(self, job: str) -> VilaM3Error:
        """What to raise: its exit code says whether to start again."""
        if self.cause is USER:
            return UserError(f"job {job}: {self.sentence}")
        kind = JobLostError if self.cause.is_retryable else JobFailedError
        return kind(f"job {job}: {self.sentence}")


def classify(last: Observation, *, before: Iterable[Finding] = ()) -> Failure:
    """Why the job of this last observation failed.

    Args:
        last: The observation.
        before: What befell its pods lately, since they vanish with the job.
    """
    # Where one pod ends them all, the others say that they were asked to end, and its own status says why.
    is_asked = last.news.kind == PreemptedError.__name__ and last.ends_with_a_pod
    rules: tuple[Callable[[], Failure | None], ...] = (
        lambda: None if is_asked else _by_own_word(last.news),
        lambda: _by_incident([*before, *last.findings]),
        lambda: _by_own_word(last.news),
        lambda: _by_text(f"{last.news.message}\n{last.message}"),
        lambda: _by_status(last),
    )
    found = next(_given(rules), None)
    return found or Failure(cause=UNKNOWN, detail=_shown(last.news.message or last.message))


def _given(rules: Iterable[Callable[[], Failure | None]]) -> Iterator[Failure]:
    yield from (found for rule in rules if (found := rule()) is not None)


def _by_own_word(news: News) -> Failure | None:
    """What the job says of itself, where that is the whole truth: a lost worker's pod knows better why."""
    kind = getattr(errors, news.kind, None) if news.kind else None
    if not isinstance(kind, type):
        return None
    classes: tuple[tuple[type[Exception], Cause], ...] = (
        (DivergedError, DIVERGED),
        (UnfitError, UNFIT),
        (SupersededError, STOPPED),
        (UserError, USER),
        (PreemptedError, PREEMPTED),
    )
    cause = next((cause for parent, cause in classes if issubclass(kind, parent)), None)
    return Failure(cause=cause, detail=_shown(news.message)) if cause else None


def _by_incident(findings: Iterable[Finding]) -> Failure | None:
    known = list(findings)
    for incident, cause in BY_INCIDENT.items():
        for finding in known:
            if finding.incident == incident:
                where = f"pod {finding.pod}" + (f" on {finding.node}" if finding.node else "")
                return Failure(cause=cause, where=where, detail=_shown(finding.detail))
    return None


def _by_text(text: str) -> Failure | None:
    for pattern, cause in BY_TEXT:
        if found := pattern.search(text):
            line = text[text.rfind("\n", 0, found.start()) + 1 :].partition("\n")[0]
            return Failure(cause=cause, detail=_shown(_last_line(text) if "exit code" in found[0] else line))
    return None


def _by_status(last: Observation) -> Failure | None:
    if last.outcome == "stopped":
        return Failure(cause=STOPPED)
    cause = BY_REASON.get(last.reason)
    return Failure(cause=cause, detail=_shown(last.message)) if cause else None


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"

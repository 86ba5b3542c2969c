"""Rules of classes: the log's own words, the most telling of several, and no alarm at what every log holds."""

import pytest

from vilam3.errors import JobFailedError, JobLostError, UserError
from vilam3.launch.failure import CAUSES, USER, Failure, classify
from vilam3.launch.status import Finding, Observation
from vilam3.train.news import News

HEAD = "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\n"


def _over(message: str = "", news: News | None = None, reason: str = "") -> Observation:
    return Observation(phase="over", outcome="failed", message=message, news=news or News(), reason=reason)


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (HEAD.format(1) + "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:94", "nccl"),
        (HEAD.format(1) + "RuntimeError: NCCL communicator was aborted: ncclRemoteError", "nccl"),
        (HEAD.format(1) + "NCCL operation timed out", "nccl"),
        (HEAD.format(1) + "NCCL_IB_TIMEOUT=22\nTORCH_NCCL_ASYNC_ERROR_HANDLING=1\nKeyError: 1", "unknown"),
        (HEAD.format(1) + "NVRM: Xid (PCI:0000:1b:00): 94, pid=1", "xid"),
        (HEAD.format(1) + "xid 7 committed", "unknown"),
        (HEAD.format(1) + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "gpu-memory"),
        (HEAD.format(1) + "ray.exceptions.OutOfMemoryError: Task was killed", "host-memory"),
        (HEAD.format(2) + "vilam3: corpus: lacks its manifest", "user"),
        (HEAD.format(21) + "vilam3: no", "unknown"),
        (HEAD.format(75) + "vilam3: asked to end", "preempted"),
        (HEAD.format(137), "killed"),
    ],
)
def test_the_words_of_a_log(message: str, name: str) -> None:
    assert classify(_over(message)).cause.name == name


def test_a_reason_of_kuberay_is_told_where_the_log_says_nothing() -> None:
    assert classify(_over(reason="ValidationFailed")).cause.name == "refused"
    assert classify(_over(reason="SubmissionFailed")).cause.name == "submission"


def test_a_memory_that_ran_out_explains_what_the_others_then_said() -> None:
    """One pod is killed, and the rest of the gang reports lost links."""
    killed = Finding(incident="killed", pod="b", node="n2")
    memory = Finding(incident="memory", pod="a", node="n1")
    found = classify(_over(HEAD.format(1) + "NCCL error"), before=[killed, memory])
    assert found.cause.name == "host-memory"
    assert found.where == "pod a on n1"


def test_what_a_job_says_of_itself_comes_first() -> None:
    killed = Finding(incident="killed", pod="b", node="n2")
    found = classify(_over(news=News(kind="DivergedError", message="loss nan at step 3")), before=[killed])
    assert (found.cause.name, found.detail) == ("diverged", "loss nan at step 3")


def test_that_workers_failed_too_often_is_no_reason_by_itself() -> None:
    lost = Finding(incident="node lost", pod="b", node="n2")
    assert (
        classify(_over(news=News(kind="VilaM3Error", message="failed 10 times")), before=[lost]).cause.name
        == "node-lost"
    )


def test_every_cause_has_a_name_of_its_own_a_remedy_and_an_error() -> None:
    assert len({cause.name for cause in CAUSES}) == len(CAUSES) >= 12
    for cause in CAUSES:
        error = Failure(cause=cause).error("job-1")
        kind = UserError if cause is USER else JobLostError if cause.is_retryable else JobFailedError
        assert type(error) is kind
        assert error.exit_code == {UserError: 2, JobLostError: 75, JobFailedError: 1}[kind]
        assert cause.remedy in str(error)

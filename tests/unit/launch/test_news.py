"""Rules of a job's news: the newest word is in the store, also of an end, and a job that nobody watches ends."""

import contextlib
import threading
import time
from pathlib import Path

import pytest

from vilam3.errors import ArtifactError, DataError, PreemptedError
from vilam3.launch.rayjob import RayJobs
from vilam3.launch.status import findings_of
from vilam3.train import news
from vilam3.train.news import News, heard, mark, telling
from vilam3.train.termination import on_termination


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "EVERY_S", 0.05)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"{tmp_path.as_uri()}/launched/job.json"


def test_the_newest_word_and_the_last_are_left(uri: str) -> None:
    assert heard(uri) is None
    with telling(uri) as teller:
        assert teller is not None
        assert heard(uri) == News()
        teller(2, 3, 0.5, 9.0)
        teller.finished("s3://b/model")
    assert heard(uri) == News(step=2, steps=3, loss=0.5, seconds_left=9.0, model="s3://b/model")


def test_an_error_is_told_by_its_class(uri: str) -> None:
    with pytest.raises(DataError), telling(uri):
        raise DataError("corpus: is empty")
    assert heard(uri) == News(kind="DataError", message="corpus: is empty")


def _fail(uri: str, error: Exception, *, peer: Exception) -> None:
    """Two processes: the first is at a step when the other fails, and then fails itself."""
    with telling(uri) as first:
        assert first is not None
        first(2, 3, 0.5, 9.0)
        with contextlib.suppress(type(peer)), telling(uri, is_first=False) as second:
            assert second is None
            raise peer
        raise error


@pytest.mark.parametrize("echo", [RuntimeError("Connection closed by peer"), PreemptedError("asked to end")])
def test_of_several_processes_the_one_that_knows_why_is_heard(echo: Exception, uri: str) -> None:
    """Whoever is asked to end because of it, or loses the link, does not know."""
    cause = DataError("sample 7: cannot be read")
    with pytest.raises(type(echo)):
        _fail(uri, echo, peer=cause)
    told = News(step=2, steps=3, loss=0.5, seconds_left=9.0, kind="DataError", message=str(cause))
    assert heard(uri) == told
    with pytest.raises(DataError):
        _fail(uri, cause, peer=echo)
    assert heard(uri) == told


def test_an_error_of_an_earlier_try_is_over_when_the_next_begins(uri: str) -> None:
    with pytest.raises(DataError), telling(uri, is_first=False):
        raise DataError("once")
    with telling(uri):
        assert heard(uri) == News()


def test_a_job_that_nobody_watches_is_asked_to_end(uri: str) -> None:
    stop = threading.Event()
    with on_termination(stop), telling(uri, unwatched_s=0.4):
        for _ in range(10):
            mark(uri)
            time.sleep(0.1)
        assert not stop.is_set()
        assert stop.wait(10)


def test_news_of_another_release_are_no_news(uri: str, tmp_path: Path) -> None:
    file = tmp_path / "launched" / "job.json"
    file.parent.mkdir()
    file.write_text('{"pace": 1}', "utf-8")
    with pytest.raises(ArtifactError, match="another release"):
        heard(uri)


def test_a_job_that_comes_back_from_a_queue_is_starting_until_its_next_step() -> None:
    """News of before say nothing of the cluster that is being started now."""
    job: dict[str, dict[str, object]] = {
        "spec": {},
        "status": {"jobDeploymentStatus": "Initializing", "jobStatus": "PENDING"},
    }
    observed = RayJobs().observed
    assert observed(job, [], News(step=7, steps=9)).phase == "starting"
    job["status"]["jobStatus"] = "RUNNING"
    assert observed(job, [], News(step=7, steps=9)).phase == "running"
    job["spec"] = {"suspend": True}
    assert observed(job, [], News(step=7, steps=9)).phase == "queued"


def test_a_pod_without_a_status_has_nothing_to_tell() -> None:
    assert findings_of({"metadata": {"name": "p"}}) == []

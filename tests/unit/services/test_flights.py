"""Calls that are the same at the same moment are computed once, and nobody depends on another's patience."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from vilam3.errors import Cancelled, ExpertError
from vilam3.experts.protocol import ExpertResult, Provenance, Watch, unwatched
from vilam3.services.flights import Flights

LONGEST_S = 10.0
ORIGIN = Provenance(
    expert="VISTA3D", version="1", weights_digest="0" * 64, argument="", study_digest="1" * 64, series="s",
    slice_index=0, seconds=0.1, created_at="2020-01-01T00:00:00Z",
)  # fmt: skip


class Expert:
    """Runs until it is told how to end."""

    def __init__(self) -> None:
        """Count the runs."""
        self.begun = threading.Semaphore(0)
        self.runs = 0
        self.ending: Future[ExpertResult] = Future()

    def run(self, watch: Watch) -> ExpertResult:
        """One run."""
        self.runs += 1
        self.begun.release()
        while not self.ending.done():
            watch(0.5)
            threading.Event().wait(0.01)
        return self.ending.result()


@pytest.fixture
def expert() -> Expert:
    return Expert()


def found() -> ExpertResult:
    return ExpertResult(text="red: tumor", provenance=ORIGIN)


def waiting(told: list[float]) -> Watch:
    def watch(fraction: float, /) -> None:
        told.append(fraction)

    return watch


def until(told: list[float]) -> None:
    """Until one who waits has been told how far the run is, so he does wait."""
    for _ in range(int(LONGEST_S / 0.01)):
        if told:
            return
        threading.Event().wait(0.01)
    raise AssertionError("nobody waits")


def test_who_asks_the_same_meanwhile_is_given_what_is_found_and_told_how_far_it_is(expert: Expert) -> None:
    flights, told = Flights(), list[float]()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(flights.join, "key", expert.run, unwatched)
        assert expert.begun.acquire(timeout=LONGEST_S)
        second = pool.submit(flights.join, "key", expert.run, waiting(told))
        until(told)
        expert.ending.set_result(found())
        results = [first.result(LONGEST_S), second.result(LONGEST_S)]
    assert expert.runs == 1
    assert [result.is_remembered for result in results] == [False, True]
    assert results[1].text == results[0].text
    assert set(told) == {0.5}
    assert flights.join("key", expert.run, unwatched).is_remembered is False, "it is over, and nothing stays"


def test_another_call_is_another_run(expert: Expert) -> None:
    flights = Flights()
    with ThreadPoolExecutor(2) as pool:
        for key in ("one", "other"):
            pool.submit(flights.join, key, expert.run, unwatched)
            assert expert.begun.acquire(timeout=LONGEST_S)
        expert.ending.set_result(found())
    assert expert.runs == 2


def test_who_leaves_takes_nothing_from_those_who_wait(expert: Expert) -> None:
    flights, left, told = Flights(), threading.Event(), list[float]()

    def leaving(_: float, /) -> None:
        if left.is_set():
            raise Cancelled("the caller has gone")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(flights.join, "key", expert.run, leaving)
        assert expert.begun.acquire(timeout=LONGEST_S)
        second = pool.submit(flights.join, "key", expert.run, waiting(told))
        until(told)
        left.set()
        with pytest.raises(Cancelled):
            first.result(LONGEST_S)
        assert expert.begun.acquire(timeout=LONGEST_S), "the one who waited runs it himself"
        expert.ending.set_result(found())
        assert second.result(LONGEST_S).is_remembered is False


def test_one_who_waits_may_leave_and_the_run_goes_on(expert: Expert) -> None:
    flights = Flights()

    def gone(_: float, /) -> None:
        raise Cancelled("the caller has gone")

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(flights.join, "key", expert.run, unwatched)
        assert expert.begun.acquire(timeout=LONGEST_S)
        with pytest.raises(Cancelled):
            flights.join("key", expert.run, gone)
        expert.ending.set_result(found())
        assert first.result(LONGEST_S).text == "red: tumor"


def test_a_refusal_is_everybodys(expert: Expert) -> None:
    flights, told = Flights(), list[float]()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(flights.join, "key", expert.run, unwatched)
        assert expert.begun.acquire(timeout=LONGEST_S)
        second = pool.submit(flights.join, "key", expert.run, waiting(told))
        until(told)
        expert.ending.set_exception(ExpertError("outside the field of view"))
        for asked in (first, second):
            with pytest.raises(ExpertError, match="outside the field of view"):
                asked.result(LONGEST_S)
    assert expert.runs == 1

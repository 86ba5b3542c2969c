"""The next step's batches are made meanwhile, each once, and their errors are raised when they are asked for."""

import threading

import pytest

from vilam3.errors import DataError
from vilam3.train.ahead import Ahead
from vilam3.train.step import Batch, no_samples


def test_the_next_step_is_made_before_it_is_asked_for_and_none_behind_the_last() -> None:
    made: list[int] = []
    is_made = threading.Event()

    def make(step: int) -> list[Batch]:
        made.append(step)
        if step == 4:
            is_made.set()
        return [no_samples()] * step

    ahead = Ahead(make, steps=5)
    assert len(ahead(3)) == 3
    assert is_made.wait(10)
    assert len(ahead(4)) == 4
    ahead.close()
    assert made == [3, 4]
    assert ahead.waited_s >= 0


def test_what_cannot_be_made_is_raised_at_its_own_step() -> None:
    def make(step: int) -> list[Batch]:
        if step == 1:
            raise DataError("sample 7: mend it")
        return []

    ahead = Ahead(make, steps=3)
    assert ahead(0) == []
    with pytest.raises(DataError, match="sample 7"):
        ahead(1)
    assert ahead(2) == []
    ahead.close()

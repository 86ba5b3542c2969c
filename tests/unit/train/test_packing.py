"""Packing: everything once, nothing over the edge, next to no padding, the same every time."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from vilam3.train.packing import fill, pack

lengths_of_samples = st.lists(st.integers(1, 5000), max_size=200)


@settings(deadline=None)
@given(lengths=lengths_of_samples)
def test_every_sample_is_in_one_row_and_no_row_is_over_full(lengths: list[int]) -> None:
    rows = pack(lengths, capacity=4096)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(min(lengths[index], 4096) for index in row) <= 4096 for row in rows)


@settings(deadline=None)
@given(lengths=lengths_of_samples)
def test_no_two_rows_could_have_been_one(lengths: list[int]) -> None:
    rows = pack(lengths, capacity=4096)
    loads = sorted(sum(min(lengths[index], 4096) for index in row) for row in rows)
    assert len(loads) < 2 or loads[0] + loads[1] > 4096


def test_a_step_of_stage_4_is_at_least_95_percent_real() -> None:
    """1,024 samples of 200 to 900 positions, one in twenty far longer; the last row alone may stay empty."""
    draw = random.Random(11)  # noqa: S311 - lengths, not secrets
    for _ in range(20):
        lengths = [draw.randint(1500, 4096) if draw.random() < 0.05 else draw.randint(200, 900) for _ in range(1024)]
        assert fill(lengths, pack(lengths, capacity=4096), capacity=4096) >= 0.95


def test_the_rows_follow_from_the_lengths_alone() -> None:
    assert pack([3, 9, 1, 6, 6, 4], capacity=10) == [[1, 2], [3, 5], [4, 0]]
    assert pack([], capacity=10) == []
    assert fill([], [], capacity=10) == 1.0

"""Turns: who gets a place, what a pass works on and in which order, what is refused; no network, thread or clock."""

import itertools
import random

import pytest

from vilam3.errors import BusyError
from vilam3.model.batching.schedule import Entry, Move, Plan, Scheduler


def entry(length: int, *, priority: int = 0) -> Entry:
    return Entry(length=length, priority=priority)


def scheduler(*, slots: int = 2, waiting: int = 8, chunk: int = 10, now_s: float = 0.0) -> Scheduler[Entry]:
    return Scheduler(slots=slots, waiting=waiting, chunk=chunk, clock=lambda: now_s)


def step(turns: Scheduler[Entry], *, remembered: int = 0) -> Plan[Entry]:
    plan = turns.plan(lambda _: remembered)
    turns.advance(plan)
    return plan


def test_a_long_prompt_is_worked_on_in_pieces_while_others_are_decoded() -> None:
    turns = scheduler()
    short, long = entry(4), entry(25)
    turns.submit(short)
    turns.submit(long)
    plans = [step(turns) for _ in range(4)]
    assert [[(chunk.start, chunk.stop) for chunk in plan.chunks] for plan in plans] == [
        [(0, 4), (0, 6)],
        [(6, 16)],
        [(16, 25)],
        [],
    ]
    assert [plan.choosing for plan in plans] == [(short,), (short,), (short, long), (short, long)]
    assert (short.filled, long.filled) == (7, 26)


def test_what_is_remembered_is_not_worked_on_again() -> None:
    turns = scheduler()
    turns.submit(entry(25))
    plan = step(turns, remembered=20)
    assert [(chunk.start, chunk.stop, chunk.is_last) for chunk in plan.chunks] == [(20, 25, True)]


def test_requests_are_admitted_by_priority_and_then_by_arrival() -> None:
    turns = scheduler(slots=1, chunk=100)
    entries = [entry(3, priority=priority) for priority in (1, 0, 1, 0, -1)]
    for one in entries:
        turns.submit(one)
    admitted = []
    while not turns.is_idle:
        admitted.append(step(turns).choosing[0])
        turns.leave(admitted[-1])
    assert [entries.index(one) for one in admitted] == [4, 1, 3, 0, 2]


def test_a_request_is_admitted_only_when_there_are_positions_left_for_it() -> None:
    """So that it may find in memory what those before it have left there."""
    turns = scheduler(slots=3, chunk=10)
    for _ in range(3):
        turns.submit(entry(10))
    assert len(step(turns).chunks) == 1
    assert (len(turns.running), turns.num_waiting) == (1, 2)


def test_ranks_are_closed_when_one_leaves() -> None:
    turns = scheduler(slots=3, chunk=100)
    first, second, third = (entry(5) for _ in range(3))
    for one in (first, second, third):
        turns.submit(one)
    step(turns)
    turns.leave(first)
    plan = step(turns)
    assert plan.moves == (Move(source=2, target=0, length=5),)
    assert [one.slot for one in plan.decoding] == [0, 1]
    assert plan.decoding == (third, second)
    assert turns.num_free == 1


def test_a_full_queue_refuses_with_the_time_it_will_take() -> None:
    now = itertools.count(step=4)
    turns: Scheduler[Entry] = Scheduler(slots=1, waiting=2, chunk=10, clock=lambda: float(next(now)))
    for _ in range(40):  # each holds its place for four seconds
        passing = entry(1)
        turns.submit(passing)
        turns.plan()
        turns.leave(passing)
    for _ in range(3):
        turns.submit(entry(1))
    with pytest.raises(BusyError) as refused:
        turns.submit(entry(1))
    assert refused.value.retry_after_s == 16  # four before it, of four seconds each
    assert not turns.has_room


def test_what_nobody_wants_leaves_from_wherever_it_is() -> None:
    turns = scheduler(slots=1)
    entries = [entry(5) for _ in range(3)]
    for one in entries:
        turns.submit(one)
    step(turns)
    unwanted = {id(entries[0]), id(entries[2])}
    assert turns.discard(lambda one: id(one) in unwanted) == [entries[0], entries[2]]
    assert step(turns).choosing == (entries[1],)
    turns.leave(entries[1])
    turns.leave(entries[1])
    assert turns.is_idle


def test_whatever_happens_places_are_one_piece_and_nobody_is_forgotten() -> None:
    chance = random.Random(4)  # noqa: S311 - no secret
    turns = scheduler(slots=4, waiting=30, chunk=7)
    left: set[int] = set()
    asked = []
    for _ in range(400):
        if turns.has_room and chance.random() < 0.4:
            asked.append(entry(chance.randint(1, 20), priority=chance.randint(-1, 1)))
            turns.submit(asked[-1])
        plan = step(turns)
        assert sorted(one.place for one in turns.running) == list(range(len(turns.running)))
        assert sum(chunk.stop - chunk.start for chunk in plan.chunks) <= 7
        for one in turns.running:
            if one.is_decoding and chance.random() < 0.2:
                turns.leave(one)
                left.add(id(one))
    while not turns.is_idle:
        step(turns)
        for one in turns.running:
            if one.is_decoding:
                turns.leave(one)
                left.add(id(one))
    assert left == {id(one) for one in asked}

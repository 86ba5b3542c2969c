"""Which conversations share a row of fixed length, so that almost nothing of it is padding.

Packing is done within one optimizer step: the step holds the samples that it would hold unpacked, in other rows, so
loss and gradients are the same. Longest first into the fullest row that still has room ("best fit decreasing"), which
wastes at most 2/9 of the best possible packing and in practice next to nothing; ties go to the earlier row, so that the
result follows from the lengths alone.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Rows of a forward pass.

    Attributes:
        capacity: Positions of a row.
        rows: Most rows of a forward pass.
    """

    capacity: int
    rows: int


def pack(lengths: Sequence[int], *, capacity: int, begun: Sequence[int] = ()) -> list[list[int]]:
    """Rows of sample indices whose lengths together are at most `capacity`.

    Args:
        lengths: Positions of each sample, image positions included.
        capacity: Of a row; a longer sample has a row of its own, where the network cuts it.
        begun: Positions taken already of rows that something else has begun; these rows come first.

    Returns:
        Rows in the order in which they were begun; indices within a row in the order of their lengths, longest first.
    """
    rows: list[list[int]] = [[] for _ in begun]
    rooms = sorted((capacity - taken, row) for row, taken in enumerate(begun))  # (room left, row)
    for index in sorted(range(len(lengths)), key=lambda one: (-lengths[one], one)):
        needed = min(lengths[index], capacity)
        place = bisect.bisect_left(rooms, (needed, -1))
        if place == len(rooms):
            rows.append([index])
            bisect.insort(rooms, (capacity - needed, len(rows) - 1))
        else:
            room, row = rooms.pop(place)
            rows[row].append(index)
            bisect.insort(rooms, (room - needed, row))
    return rows


def fill(lengths: Sequence[int], rows: Sequence[Sequence[int]], *, capacity: int) -> float:
    """Share of real positions in rows of `capacity`."""
    return sum(min(length, capacity) for length in lengths) / (len(rows) * capacity) if rows else 1.0

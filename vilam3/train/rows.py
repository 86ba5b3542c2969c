"""Samples to rows of fixed length, with an opening that several of them share in a row once.

Expert conversations begin with the same system text and model cards, longer than most of what follows. Nothing there is
learned and attention is causal, so that one row's opening serves all that continue it: same loss and gradients, less
work. `vilam3.model.segments` keeps the samples apart.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from vilam3.model.config import IGNORED_LABEL, IMAGE_TOKEN_ID
from vilam3.model.segments import ALONE, CONTINUES, OPENING
from vilam3.train.example import Example
from vilam3.train.packing import pack
from vilam3.train.prefix import WORTHWHILE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Piece:
    """A sample, an opening, or what of a sample is behind one; `begins` as `vilam3.model.segments` has it."""

    example: Example
    begins: int


def rows_of(samples: Sequence[Example], *, capacity: int) -> list[list[Piece]]:
    """Rows that hold every sample once.

    Args:
        samples: In any order, on which the rows depend.
        capacity: Positions of a row; a longer sample has a row of its own, where the network cuts it.
    """
    groups, loose = by_shared_opening(samples, capacity=capacity)
    rows = [row for group in groups for row in _rows_of_group(group, capacity=capacity)]
    taken = [sum(piece.example.length for piece in row) for row in rows]
    packed = pack([one.length for one in loose], capacity=capacity, begun=taken)
    return [
        (begun or []) + [Piece(example=loose[index], begins=ALONE) for index in row]
        for begun, row in zip_longest(rows, packed)
    ]


def by_shared_opening(samples: Sequence[Example], *, capacity: int) -> tuple[list[list[Example]], list[Example]]:
    """Groups of samples that share an opening worth sharing, in order, and the samples that share none."""
    found: dict[bytes, list[Example]] = defaultdict(list)
    for one in samples:
        fits = len(one.input_ids_T) > WORTHWHILE and one.length <= capacity
        found[opening_of(one) if fits else b""].append(one)
    loose = found.pop(b"", [])
    groups = []
    for group in found.values():
        if len(group) > 1 and shared_length(group) >= WORTHWHILE:
            groups.append(group)
        else:
            loose += group
    return groups, loose


def opening_of(one: Example) -> bytes:
    """Equal for samples that may share an opening: of equal beginning, and of one family, since adapters see it."""
    family = b"" if one.family is None else b"%d " % one.family
    return family + one.input_ids_T[:WORTHWHILE].tobytes()


def shared_length(samples: Sequence[Example]) -> int:
    """Leading tokens that all share, without pictures, whose outputs no target needs; something is left of each."""
    width = min(len(one.input_ids_T) for one in samples) - 1
    ids_BT = np.stack([one.input_ids_T[:width] for one in samples])
    next_labels_BT = np.stack([one.labels_T[1 : width + 1] for one in samples])
    differs_T = (ids_BT != ids_BT[:1]).any(axis=0) | (ids_BT[0] == IMAGE_TOKEN_ID)
    stops = np.flatnonzero(differs_T | (next_labels_BT != IGNORED_LABEL).any(axis=0))
    return int(stops[0]) if len(stops) else width


def joined(row: Sequence[Piece]) -> Example:
    """The row as one long sample."""
    return Example(
        input_ids_T=np.concatenate([piece.example.input_ids_T for piece in row]),
        labels_T=np.concatenate([_unpredicted_first(piece.example) for piece in row]),
        images=tuple(name for piece in row for name in piece.example.images),
        length=sum(piece.example.length for piece in row),
    )


def _rows_of_group(group: Sequence[Example], *, capacity: int) -> list[list[Piece]]:
    length = shared_length(group)
    rows = []
    for row in pack([one.length - length for one in group], capacity=capacity - length):
        if len(row) == 1:
            rows.append([Piece(example=group[row[0]], begins=ALONE)])
            continue
        opening = _cut(group[row[0]], 0, length)
        rest = [_cut(group[index], length, None) for index in row]
        rows.append([Piece(example=opening, begins=OPENING), *(Piece(example=one, begins=CONTINUES) for one in rest)])
    return rows


def _cut(example: Example, start: int, stop: int | None) -> Example:
    """Part of a sample in front of its first picture, or all from there on."""
    return Example(
        input_ids_T=example.input_ids_T[start:stop],
        labels_T=example.labels_T[start:stop],
        images=() if stop is not None else example.images,
        length=example.length - start if stop is None else stop - start,
        sample_id="" if stop is not None else example.sample_id,
        family=example.family,
    )


def _unpredicted_first(example: Example) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Nothing before a piece predicts its first token, alone or behind another one."""
    return np.concatenate([[IGNORED_LABEL], example.labels_T[1:]])

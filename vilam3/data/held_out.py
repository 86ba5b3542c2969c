"""Patients whose samples nothing is learned from, so that the loss on them says when learning begins to over-fit."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from vilam3.data.sample import Sample


def choose(samples: Iterable[Sample], *, at_least: int, seed: int) -> frozenset[str]:
    """Whom to hold out, see `name_of`, so that at least so many samples are; all where there are fewer.

    Who it is follows from the seed and the pseudonyms alone.
    """
    count: dict[str, int] = {}
    for sample in samples:
        count[name_of(sample)] = count.get(name_of(sample), 0) + 1
    chosen: set[str] = set()
    held_out = 0
    for name in sorted(count, key=lambda one: hashlib.sha256(f"{seed} {one}".encode()).digest()):
        if held_out >= at_least:
            break
        chosen.add(name)
        held_out += count[name]
    return frozenset(chosen)


def parted(
    datasets: Mapping[str, Sequence[Sample]], names: Collection[str]
) -> tuple[dict[str, list[Sample]], dict[str, list[Sample]]]:
    """What is to be learned, and the samples of these, by dataset."""
    learned = {name: [one for one in samples if name_of(one) not in names] for name, samples in datasets.items()}
    held_out = {name: [one for one in samples if name_of(one) in names] for name, samples in datasets.items()}
    return learned, held_out


def name_of(sample: Sample) -> str:
    """Of its patient; a sample that says nothing of its patient is one by itself."""
    return f"patient {sample.patient}" if sample.patient else f"sample {sample.sample_id}"

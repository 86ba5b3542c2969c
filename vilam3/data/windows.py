"""In which order the samples of a corpus in shards are drawn, so that a step needs few of the shards.

The shards of an epoch are shuffled and dealt to windows, in each of which the sources have about their shares; the
samples of a window are shuffled. All follows from seed and epoch, as in `vilam3.data.mixture`, and every sample occurs
in an epoch as often as its weight says. Where one window holds all shards, the order is that of the mixture itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vilam3.data.mixture import Mixture, Pick, mixture_of, random_words

KEPT_EPOCHS = 2
DEALING = 1  # tells the words that deal shards from those that shuffle samples


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlace:
    """One shard of one source, by number."""

    source: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Epoch:
    """Slots of the mixture in the order of an epoch, and where in it each window ends."""

    slots: NDArray[np.int64]
    ends: NDArray[np.int64]


class WindowedMixture:
    """The mixture of sources that lie in shards."""

    def __init__(
        self, sizes: Mapping[str, Sequence[int]], weights: Mapping[str, int], *, seed: int, mixed_shards: int
    ) -> None:
        """`sizes` has the samples of every shard of every source; a window has at most `mixed_shards` of them.

        Raises:
            RecipeError: a weight for a source that is not there.
        """
        self._mixture = mixture_of({name: sum(of_shards) for name, of_shards in sizes.items()}, weights, seed=seed)
        self._mixed_shards = mixed_shards
        self._num_shards = {name: len(of_shards) for name, of_shards in sizes.items()}
        self._visits, counts = _visits(self._mixture, sizes)
        self._visit_of_slot = np.repeat(np.arange(len(self._visits)), counts)
        self._epochs: dict[int, _Epoch] = {}

    def picks(self, start: int, stop: int) -> Iterator[Pick]:
        """The samples at positions `start` to `stop` - 1, counted from the first sample of the first epoch."""
        for position in range(start, stop):
            epoch, place = divmod(position, self._mixture.samples_per_epoch)
            yield self._mixture.of_slot(int(self._epoch(epoch).slots[place]))

    def window_at(self, position: int) -> tuple[int, int]:
        """Epoch and number of the window that a position is in."""
        epoch, place = divmod(position, self._mixture.samples_per_epoch)
        return epoch, int(np.searchsorted(self._epoch(epoch).ends, place, side="right"))

    def coming(self, position: int) -> list[ShardPlace]:
        """The shards from a position to the end of its window by first need, then those of the next window."""
        epoch, window = self.window_at(position)
        place = position % self._mixture.samples_per_epoch
        ends = self._epoch(epoch).ends
        is_last = window + 1 == len(ends)
        following = (epoch + 1, 0) if is_last else (epoch, window + 1)
        first = 0 if is_last else int(ends[window])
        slots = [
            self._epoch(epoch).slots[place : ends[window]],
            self._epoch(following[0]).slots[first : self._epoch(following[0]).ends[following[1]]],
        ]
        visits, firsts = np.unique(self._visit_of_slot[np.concatenate(slots)], return_index=True)
        return list(dict.fromkeys(self._visits[visit][0] for visit in visits[np.argsort(firsts)]))

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            for old in sorted(self._epochs)[: 1 - KEPT_EPOCHS]:
                del self._epochs[old]
            self._epochs[epoch] = self._arranged(epoch)
        return self._epochs[epoch]

    def _arranged(self, epoch: int) -> _Epoch:
        windows_of_slots = self._windows(epoch)[self._visit_of_slot]
        words = random_words(len(windows_of_slots), self._mixture.seed, epoch)
        return _Epoch(
            slots=np.lexsort((words, windows_of_slots)).astype(np.int64),
            ends=np.cumsum(np.bincount(windows_of_slots)).astype(np.int64),
        )

    def _windows(self, epoch: int) -> NDArray[np.int64]:
        """The window of every visit of a shard: those of a source are spread over the epoch, in random order."""
        count = len(self._visits)
        num_windows = -(-count // self._mixed_shards)
        words = random_words(count, self._mixture.seed, epoch, DEALING)
        rounds = np.array([number for _, number in self._visits])
        places, first = np.empty(count), 0
        for source in self._mixture.sources:
            of_source = slice(first, first + source.weight * self._num_shards[source.name])
            dealt = np.lexsort((words[of_source], rounds[of_source]))
            phase = float(words[first]) / 2.0**64
            places[of_source][dealt] = (np.arange(len(dealt)) + phase) / len(dealt)
            first = of_source.stop
        windows = np.empty(count, dtype=np.int64)
        windows[np.lexsort((words, places))] = np.arange(count) * num_windows // count
        return windows


def _visits(mixture: Mixture, sizes: Mapping[str, Sequence[int]]) -> tuple[list[tuple[ShardPlace, int]], list[int]]:
    """Every shard with the number of its repetition, in the order of the mixture's slots, and its samples."""
    visits, counts = [], []
    for source in mixture.sources:
        for repetition in range(source.weight):
            for number, count in enumerate(sizes[source.name]):
                visits.append((ShardPlace(source=source.name, number=number), repetition))
                counts.append(count)
    return visits, counts

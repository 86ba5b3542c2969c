"""Which sample comes next when several sources are mixed by weight.

The order of an epoch is a permutation that follows from seed and epoch alone, so the only state is the number of
samples already taken: neither batch size nor number of workers changes the sequence, and a resumed run goes on exactly.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vilam3.errors import RecipeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A set of samples.

    Attributes:
        name: Unique in the mixture.
        num_samples: How many it holds.
        weight: How often each sample occurs in an epoch.
    """

    name: str
    num_samples: int
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """One sample of one source."""

    source: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Sources and the seed of their order.

    Raises:
        RecipeError: no source, a name twice, an empty source, or a weight below 1.
    """

    sources: tuple[Source, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what a recipe may get wrong."""
        if not self.sources:
            raise RecipeError("mixture: no source; name at least one")
        if self.seed < 0:
            raise RecipeError(f"mixture.seed={self.seed}: must not be negative")
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise RecipeError(f"mixture: a source occurs twice in {', '.join(names)}; give it a higher weight instead")
        for source in self.sources:
            if source.weight < 1 or source.num_samples < 1:
                raise RecipeError(
                    f"mixture.{source.name}: weight {source.weight} on {source.num_samples} samples; "
                    "both must be at least 1, leave out what is not wanted"
                )

    @property
    def samples_per_epoch(self) -> int:
        """Samples of all sources, each as often as its weight says."""
        return sum(source.num_samples * source.weight for source in self.sources)

    def at(self, position: int) -> Pick:
        """The sample at a global position, counted from the first sample of the first epoch."""
        epoch, place = divmod(position, self.samples_per_epoch)
        return self.of_slot(int(_order(self.seed, epoch, self.samples_per_epoch)[place]))

    def of_slot(self, slot: int) -> Pick:
        """The sample of a slot: sources in turn, each repeated as its weight says, its samples in their own order."""
        for source in self.sources:
            span = source.num_samples * source.weight
            if slot < span:
                return Pick(source=source.name, index=slot % source.num_samples)
            slot -= span
        raise AssertionError(slot)

    def picks(self, start: int, stop: int) -> Iterator[Pick]:
        """The samples at positions `start` to `stop` - 1."""
        return (self.at(position) for position in range(start, stop))

    def close(self) -> None:
        """Nothing is open."""


def mixture_of(sizes: Mapping[str, int], weights: Mapping[str, int], *, seed: int) -> Mixture:
    """A mixture from the sizes of the sources at hand and the weights a recipe gives.

    Raises:
        RecipeError: a weight for a source that is not there.
    """
    for name in weights:
        if name not in sizes:
            raise RecipeError(f"mixture.{name}: no such source; there are {', '.join(sorted(sizes)) or 'none'}")
    sources = (Source(name=name, num_samples=sizes[name], weight=weight) for name, weight in weights.items())
    return Mixture(sources=tuple(sources), seed=seed)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_slots: int) -> NDArray[np.int64]:
    """A permutation of the slots, sorted by raw random words."""
    return np.argsort(random_words(num_slots, seed, epoch), kind="stable")


def random_words(count: int, *seeds: int) -> NDArray[np.uint64]:
    """Words that follow from the seeds alone, by numpy's promise for ever."""
    return np.asarray(np.random.PCG64(np.random.SeedSequence(seeds)).random_raw(count), dtype=np.uint64)

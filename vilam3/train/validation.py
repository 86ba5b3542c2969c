"""The loss on samples that are held out of training: which they are, which step was best, and when to stop.

Nothing here draws at random or depends on who trains, and what has been measured is part of a run's state: one that was
interrupted stops at the same step as one that was not.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vilam3.data.sample import Sample
from vilam3.train.peers import Peers
from vilam3.train.step import Batch, in_lockstep, no_samples

Measure = Callable[[Sequence[Batch]], list[float]]  # the mean loss of each


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """The loss on held-out samples after a step."""

    step: int
    loss: float


def split(
    datasets: Mapping[str, Sequence[Sample]], *, held_out: int, seed: int
) -> tuple[dict[str, list[Sample]], dict[str, list[Sample]]]:
    """What is to be learned, and at least `held_out` samples that are not, of patients of whom nothing is learned.

    Which patients follows from the seed and their pseudonyms alone.
    """
    by_patient: dict[str, int] = {}
    for samples in datasets.values():
        for sample in samples:
            by_patient[_patient(sample)] = by_patient.get(_patient(sample), 0) + 1
    chosen, count = set(), 0
    for patient in sorted(by_patient, key=lambda one: hashlib.sha256(f"{seed} {one}".encode()).digest()):
        if count >= held_out:
            break
        chosen.add(patient)
        count += by_patient[patient]
    learned = {name: [one for one in samples if _patient(one) not in chosen] for name, samples in datasets.items()}
    held = {name: [one for one in samples if _patient(one) in chosen] for name, samples in datasets.items()}
    return learned, held


def _patient(sample: Sample) -> str:
    """A sample that says nothing of its patient is one by itself."""
    return f"patient {sample.patient}" if sample.patient else f"sample {sample.sample_id}"


def loss_over(
    batches: Sequence[Batch], measure: Measure, *, peers: Peers, moves_together: bool = False, image_size: int = 0
) -> float:
    """The mean over the target tokens of all members' batches, each weighing the same; called by all together.

    Args:
        batches: Of this member; others may have more or fewer.
        measure: Gives the loss of each.
        peers: Who measures.
        moves_together: Whether all must run the same parts of the network equally often.
        image_size: Of the network, for who has no picture then.
    """
    mine = list(batches)
    targets, counts = zip(*peers.all_of([sum(one.num_targets for one in mine), len(mine)]), strict=True)
    weights = [one.num_targets for one in mine]
    if moves_together:
        mine += [no_samples()] * (int(max(counts)) - len(mine))
        mine = [in_lockstep(one, image_size=image_size) for one in mine]
    losses = measure(mine)[: len(weights)]
    total = sum(loss * weight for loss, weight in zip(losses, weights, strict=True))
    return sum(one for (one,) in peers.all_of([total])) / max(1.0, sum(targets))


def best_of(validated: Sequence[Validated]) -> Validated | None:
    """The smallest loss, the earliest of equal ones; None where nothing was measured."""
    return min(validated, key=lambda one: (math.inf if math.isnan(one.loss) else one.loss, one.step), default=None)


def is_over(validated: Sequence[Validated], *, patience: int) -> bool:
    """Whether the last `patience` measurements all are no better than the best before them."""
    best = best_of(validated)
    return bool(patience) and best is not None and sum(one.step > best.step for one in validated) >= patience

"""The loss on samples that are held out of training: which step was best, and when to stop.

Nothing here draws at random or depends on who trains, and what has been measured is part of a run's state: one that was
interrupted stops at the same step as one that was not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vilam3.train.peers import Peers
from vilam3.train.step import Batch, in_lockstep, no_samples

Measure = Callable[[Sequence[Batch]], list[float]]  # the mean loss of each


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """The loss on held-out samples after a step."""

    step: int
    loss: float


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

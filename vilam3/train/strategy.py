"""How the members of a gang divide a model among themselves: the protocol, and who provides it.

What a strategy keeps can be read and written by name, whole, in float32. So a checkpoint knows neither strategy nor
number of members, and any other gang goes on from it.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from torch import Tensor

from vilam3.model.vila import Vila
from vilam3.recipe import Recipe
from vilam3.settings import Stage
from vilam3.train.peers import Peers
from vilam3.train.step import Batch

Kind = Literal["weight", "exp_avg", "exp_avg_sq", "step"]
StrategyName = Literal["ddp", "zero1", "zero2", "zero3", "fsdp2"]
KINDS: tuple[Kind, ...] = ("weight", "exp_avg", "exp_avg_sq", "step")  # Adam's names of its own state
STRATEGIES: tuple[StrategyName, ...] = ("ddp", "zero1", "zero2", "zero3", "fsdp2")


class Strategy(Protocol):
    """A model being trained by a gang; every method is called by all members together, in the same order.

    Attributes:
        moves_together: Whether all members must run the same parts of the network equally often.
        shapes: Of the weights that learn, by name.
    """

    moves_together: bool
    shapes: dict[str, tuple[int, ...]]

    def add_gradients(self, batches: Sequence[Batch], *, num_targets: int) -> list[float]:
        """Compute the gradients of this member's part of a step.

        Args:
            batches: Of this member.
            num_targets: Of the whole step, over all members.

        Returns:
            The share of each batch in the loss of the step.
        """
        ...

    def measure(self, batches: Sequence[Batch]) -> list[float]:
        """The mean loss of each batch; nothing is learned."""
        ...

    def move(self, *, learning_rate: float) -> float:
        """Add the gradients of all members, clip them, move the weights; returns the norm before clipping."""
        ...

    def full(self, name: str, kind: Kind) -> Tensor:
        """A weight, one of its moments, or how often it was moved; whole, in float32."""
        ...

    def put(self, name: str, kind: Kind, value: Tensor) -> None:
        """Replace what `full` gives."""
        ...

    def network(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight of the network, whole, one after the other."""
        ...

    def close(self) -> None:
        """Give back what only training needed."""
        ...


def default_strategy(stage: Stage) -> StrategyName:
    """What the recipe's ZeRO stage asks for."""
    return STRATEGIES[stage.zero_stage]


def make_strategy(name: StrategyName, model: Vila, recipe: Recipe, stage: Stage, *, peers: Peers) -> Strategy:
    """Divide `model`, whose frozen parts are marked, among the gang."""
    if name == "ddp":
        from vilam3.train.replicated import Replicated  # noqa: PLC0415 - only the one that is used is loaded

        return Replicated(model, recipe, stage, peers=peers)
    if name == "fsdp2":
        from vilam3.train.fully_sharded import FullySharded  # noqa: PLC0415 - likewise

        return FullySharded(model, recipe, stage, peers=peers)
    from vilam3.train.extensions import release_stale_locks  # noqa: PLC0415 - torch's compiler takes long to import

    release_stale_locks()
    from vilam3.train.zero import Zero  # noqa: PLC0415 - DeepSpeed takes seconds to import

    return Zero(model, recipe, stage, peers=peers, level=int(name.removeprefix("zero")))

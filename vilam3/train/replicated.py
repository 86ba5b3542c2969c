"""Every member holds the whole model and optimizer, and gradients are added: plain torch, nothing sharded.

Gradients are summed once a step, not layer by layer while they are computed: a member whose samples have no picture
needs no partner in the vision tower, and the sum does not depend on when a layer was ready.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from vilam3.model.vila import Vila
from vilam3.recipe import Recipe
from vilam3.settings import Stage
from vilam3.train.peers import Peers
from vilam3.train.stage import PRECISIONS
from vilam3.train.step import Batch, fresh_moments, gradients_of, loss_of, make_optimizer
from vilam3.train.strategy import Kind


class Replicated:
    """See `vilam3.train.strategy.Strategy`."""

    moves_together = False

    def __init__(self, model: Vila, recipe: Recipe, stage: Stage, *, peers: Peers) -> None:
        """Train `model` in place."""
        self._model = model
        self._peers = peers
        self._clip = stage.gradient_clip or math.inf
        self._precision = PRECISIONS[recipe.model.precision]
        self._optimizer = make_optimizer(model, stage)
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.shapes = {name: tuple(weight.shape) for name, weight in self._weights.items()}
        for weight in self._weights.values():
            self._optimizer.state[weight] = fresh_moments(weight)

    def add_gradients(self, batches: Sequence[Batch], *, num_targets: int) -> list[float]:
        """See `Strategy`."""
        self._optimizer.zero_grad(set_to_none=True)
        losses = []
        for batch in batches:
            share = batch.num_targets / max(num_targets, 1)
            loss = loss_of(self._model, batch, precision=self._precision) * share
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped
            losses.append(float(loss.detach()))
        return losses

    def measure(self, batches: Sequence[Batch]) -> list[float]:
        """See `Strategy`."""
        with torch.no_grad():
            return [float(loss_of(self._model, one, precision=self._precision)) for one in batches]

    def move(self, *, learning_rate: float) -> float:
        """See `Strategy`."""
        ordered = [weight for group in self._optimizer.param_groups for weight in group["params"]]
        self._peers.add_up(gradients_of(ordered))
        norm = nn.utils.clip_grad_norm_(ordered, self._clip)  # added up in the order of one process, to the same bits
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        return float(norm)

    def full(self, name: str, kind: Kind) -> Tensor:
        """See `Strategy`."""
        weight = self._weights[name]
        if kind == "weight":
            return weight.detach()
        found: Tensor = self._optimizer.state[weight][kind]
        return found

    def put(self, name: str, kind: Kind, value: Tensor) -> None:
        """See `Strategy`."""
        self.full(name, kind).copy_(value)

    def network(self) -> Iterator[tuple[str, Tensor]]:
        """See `Strategy`."""
        return ((name, weight.detach()) for name, weight in self._model.named_parameters())

    def close(self) -> None:
        """See `Strategy`."""
        self._optimizer.zero_grad(set_to_none=True)

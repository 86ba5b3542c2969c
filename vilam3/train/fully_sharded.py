"""torch's own fully sharded data parallelism (FSDP2), the alternative to ZeRO 3 that needs no DeepSpeed."""

import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vilam3.model.vila import Vila
from vilam3.recipe import Recipe
from vilam3.settings import Stage
from vilam3.train.peers import Peers
from vilam3.train.stage import PRECISIONS
from vilam3.train.step import Batch, fresh_moments, loss_of, make_optimizer
from vilam3.train.strategy import Kind


class FullySharded:
    """See `vilam3.train.strategy.Strategy`."""

    moves_together = True

    def __init__(self, model: Vila, recipe: Recipe, stage: Stage, *, peers: Peers) -> None:
        """Divide `model` in place: each layer by itself, then what is left."""
        self._model = model
        self._peers = peers
        self._clip = stage.gradient_clip or math.inf
        self.shapes = {name: tuple(one.shape) for name, one in model.named_parameters() if one.requires_grad}
        mesh = init_device_mesh(peers.device.type, (peers.world_size,))
        policy = MixedPrecisionPolicy(param_dtype=PRECISIONS[recipe.model.precision], reduce_dtype=torch.float32)
        for layer in _layers(model):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        self._optimizer = make_optimizer(model, stage)
        self._weights = dict(model.named_parameters())
        for name in self.shapes:
            weight = self._weights[name]
            self._optimizer.state[weight] = fresh_moments(weight.detach())

    def add_gradients(self, batches: Sequence[Batch], *, num_targets: int) -> list[float]:
        """See `Strategy`."""
        self._optimizer.zero_grad(set_to_none=True)
        losses = []
        for place, batch in enumerate(batches, start=1):
            self._model.set_requires_gradient_sync(place == len(batches))  # type: ignore[operator]  # of `fully_shard`
            share = batch.num_targets / max(num_targets, 1)
            # The policy converts the weights, so that nothing is left to convert automatically.
            loss = loss_of(self._model, batch, precision=torch.float32) * share
            scaled = loss * self._peers.world_size  # which torch divides by
            scaled.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped
            losses.append(float(loss.detach()))
        return losses

    def measure(self, batches: Sequence[Batch]) -> list[float]:
        """See `Strategy`."""
        with torch.no_grad():
            return [float(loss_of(self._model, one, precision=torch.float32)) for one in batches]

    def move(self, *, learning_rate: float) -> float:
        """See `Strategy`."""
        norm = nn.utils.clip_grad_norm_([self._weights[name] for name in self.shapes], self._clip)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        return float(_whole(norm))

    def full(self, name: str, kind: Kind) -> Tensor:
        """See `Strategy`."""
        return _whole(self._place(name, kind)).float()

    def put(self, name: str, kind: Kind, value: Tensor) -> None:
        """See `Strategy`."""
        there = self._place(name, kind)
        if isinstance(there, DTensor):
            value = distribute_tensor(value.to(there.device, there.dtype), there.device_mesh, there.placements)
        there.copy_(value)

    def network(self) -> Iterator[tuple[str, Tensor]]:
        """See `Strategy`."""
        return ((name, _whole(weight.detach())) for name, weight in self._weights.items())

    def close(self) -> None:
        """See `Strategy`."""
        self._optimizer.zero_grad(set_to_none=True)

    def _place(self, name: str, kind: Kind) -> Tensor:
        weight = self._weights[name]
        return weight.detach() if kind == "weight" else cast("Tensor", self._optimizer.state[weight][kind])


def _layers(model: Vila) -> Iterator[nn.Module]:
    """What is gathered at once: a layer of either transformer; the rest, with the small projector, as one."""
    yield from model.vision_tower.blocks
    yield from model.llm.model.layers


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value

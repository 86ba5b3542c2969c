"""The members of a gang and what they say to each other; knows neither who started them nor what they train."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

CPU = torch.device("cpu")
BUCKET_NUMEL = 1 << 24  # of gradients that are added in one message: 64 MiB of float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """This process among those that train one model; alone it needs no process group.

    Attributes:
        rank: Number of this process, from 0.
        world_size: How many there are.
        device: On which this one computes.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = CPU

    @property
    def leads(self) -> bool:
        """Whether this is the member that speaks for all."""
        return self.rank == 0

    def all_of(self, values: Sequence[float]) -> list[list[float]]:
        """The same few numbers of every member, by rank."""
        if self.world_size == 1:
            return [list(values)]
        own = torch.tensor(values, dtype=torch.float64)
        found = [torch.empty_like(own) for _ in range(self.world_size)]
        distributed.all_gather(found, own)
        return [one.tolist() for one in found]

    def gathered(self, value: Any) -> list[Any]:  # noqa: ANN401 - whatever can be pickled
        """The value of every member, by rank."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        distributed.all_gather_object(found, value)
        return found

    def told(self, value: Any) -> Any:  # noqa: ANN401 - whatever can be pickled
        """What the leader has for `value`."""
        if self.world_size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, device=CPU)
        return box[0]

    def hand_out(self, tensor: Tensor, *, source: int) -> Tensor:
        """The tensor of member `source`; the others give one of the same shape and type to be filled."""
        if self.world_size > 1:
            distributed.broadcast(tensor, src=source)
        return tensor

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over all members, always added in the same order."""
        if self.world_size == 1:
            return
        bucket: list[Tensor] = []
        for place, tensor in enumerate(tensors):
            bucket.append(tensor)
            if sum(one.numel() for one in bucket) >= BUCKET_NUMEL or place == len(tensors) - 1:
                _add_up(bucket)
                bucket = []

    def meet(self) -> None:
        """Wait until every member is here."""
        self.all_of([0.0])


def _add_up(bucket: Sequence[Tensor]) -> None:
    together = torch.cat([one.flatten() for one in bucket])
    distributed.all_reduce(together)
    for one, summed in zip(bucket, torch.split(together, [one.numel() for one in bucket]), strict=True):
        one.copy_(summed.view_as(one))

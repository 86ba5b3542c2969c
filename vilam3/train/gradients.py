"""Gradients of one global batch, added up in the order of its parts; knows neither model nor optimizer.

On a CPU the parts can be computed side by side, a thread each. The operations of a small model are too short to be
split among threads themselves, and every one of them would wait for a thread that another program has displaced; a
whole part waits once. Because the sum is taken in the order of the parts, its bits do not depend on who computed what.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")
Gradients = tuple[Tensor | None, ...]


def accumulate(
    loss_of: Callable[[Part], Tensor], parts: Sequence[Part], weights: Sequence[Tensor], *, workers: Executor | None
) -> float:
    """Add the gradients of all parts to the weights and return the sum of the losses.

    Args:
        loss_of: Share of a part in the loss of the whole; a loss that needs no gradient moves nothing.
        parts: Of the global batch, the longest first where threads are to end together.
        weights: Leaves that learn, without gradients as yet.
        workers: Threads that compute a part each; None computes one part after the other, which holds the gradients
            of the weights once instead of once for each part.
    """
    if workers is None:
        return sum(_add_backward(loss_of(part)) for part in parts)
    total = 0.0
    for loss, gradients in workers.map(lambda part: _differentiate(loss_of(part), weights), parts):
        total += loss
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                weight.grad = gradient if weight.grad is None else weight.grad + gradient
    return total


def _add_backward(loss: Tensor) -> float:
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped
    return float(loss.detach())


def _differentiate(loss: Tensor, weights: Sequence[Tensor]) -> tuple[float, Gradients]:
    """The loss and its gradients, without touching what other threads see."""
    if not loss.requires_grad:
        return float(loss), (None,) * len(weights)
    return float(loss.detach()), torch.autograd.grad(loss, weights, allow_unused=True)

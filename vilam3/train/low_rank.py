"""Low-rank adaptation of the language model: the published matrices stay, and a thin product beside each one learns.

W x becomes W x + (alpha / rank) B A x, with B zero in the beginning (Hu et al. 2021, section 4.1). What is saved is the
sum, in the published layout: whoever loads a model need not know how it was trained.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from vilam3.model import checkpoint
from vilam3.model.checkpoint import Loaded
from vilam3.model.vila import Vila
from vilam3.settings import Stage

A, B, WEIGHT = ".lora_a", ".lora_b", ".weight"


class LowRank(nn.Module):
    """A linear layer that stays as it is, and the product that learns beside it."""

    def __init__(self, linear: nn.Linear, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        """Share the weight of `linear` and its name."""
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._scale = alpha / rank
        bound = 1 / math.sqrt(linear.in_features)
        drawn = torch.rand(rank, linear.in_features, generator=generator) * 2 * bound - bound
        self.lora_a = nn.Parameter(drawn.to(linear.weight))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))

    def forward(self, values: Tensor) -> Tensor:
        """As the layer, with the product added."""
        added = functional.linear(functional.linear(values, self.lora_a), self.lora_b)
        return functional.linear(values, self.weight, self.bias) + added * self._scale


def adapt(model: Vila, stage: Stage, *, seed: int) -> None:
    """Put the product beside every matrix of the language model's layers, and let nothing else of it learn."""
    if not stage.lora_rank:
        return
    generator = torch.Generator().manual_seed(seed)
    for parent in list(model.llm.model.layers.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                beside = LowRank(child, rank=stage.lora_rank, alpha=stage.lora_alpha, generator=generator)
                setattr(parent, name, beside)
    for name, weight in model.llm.named_parameters():
        weight.requires_grad_(name.endswith((A, B)))


def added_up(loaded: Loaded, stage: Stage, weights: Mapping[str, Tensor]) -> Loaded:
    """The network of these weights by name, with every product added to the matrix beside it."""
    whole = {name: weight for name, weight in weights.items() if not name.endswith((A, B))}
    for name in weights:
        if name.endswith(A):
            layer = name.removesuffix(A)
            product = weights[layer + B].float() @ weights[name].float() * (stage.lora_alpha / stage.lora_rank)
            weight = whole[layer + WEIGHT]
            whole[layer + WEIGHT] = (weight.float() + product).to(weight.dtype)
    return checkpoint.filled(loaded, whole)

"""Adapters that a task chooses: beside every matrix of the language model each family of tasks has products of its own.

After H-LoRA (Lin et al. 2025, HealthGPT, section 4.2): W x becomes W x + (alpha / rank) sum_e g_e B_e A_e x over the
experts e of the family that the token belongs to, with g the softmax of a router's scores of x. The matrices of all
families and experts lie one behind the other, so that it is one product down and one up whatever their number, and the
gate of a token is zero at those of other families.
Legend: F families, E experts of each, R rank of each, I inputs, O outputs, B rows, T token ids, L positions after image
expansion, H width.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from vilam3.errors import UserError
from vilam3.model.config import IMAGE_TOKEN_ID
from vilam3.model.families import AdapterConfig

GATED = (".gated_a", ".gated_b", ".gated_route")
ARGUMENT = "families_BL"  # by which a layer of the language model is told

_told: ContextVar[Tensor | None] = ContextVar("families", default=None)


class Gated(nn.Module):
    """A linear layer, and the products of all families beside it."""

    def __init__(self, linear: nn.Linear, config: AdapterConfig) -> None:
        """Share the weight of `linear` and its name; without effect until `gated_b` is no longer zero."""
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._config = config
        families, products = len(config.names), len(config.names) * config.experts * config.rank
        self.gated_a = nn.Parameter(linear.weight.new_zeros(products, linear.in_features))
        self.gated_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, products))
        if config.experts > 1:
            scores = linear.weight.new_zeros(families * config.experts, linear.in_features)
            self.gated_route = nn.Parameter(scores)

    def draw(self, generator: torch.Generator) -> None:
        """Fresh matrices A; B and the router begin with zero, so that nothing changes and no expert is preferred."""
        bound = 1 / math.sqrt(self.in_features)
        drawn = torch.rand(self.gated_a.shape, generator=generator) * 2 * bound - bound
        self.gated_a.data.copy_(drawn)

    def forward(self, values: Tensor) -> Tensor:
        """As the layer, with the products of each token's family added."""
        return functional.linear(values, self.weight, self.bias) + self.added(values)

    def added(self, values: Tensor) -> Tensor:
        """The products of each token's family alone."""
        thin = functional.linear(values, self.gated_a)
        gates = self._gates(values).to(thin.dtype)
        weighed = thin.view(*thin.shape[:-1], *gates.shape[-2:], self._config.rank) * gates[..., None]
        return functional.linear(weighed.flatten(-3), self.gated_b)

    def _gates(self, values: Tensor) -> Tensor:
        """(..., F, E): the scale times the router's shares in the token's family, zero in the others."""
        config, told = self._config, _told.get()
        numbers = torch.arange(len(config.names), device=values.device)
        mine = numbers == (config.number_of("") if told is None else told[..., None])
        chosen = (mine * config.scale)[..., None]
        if config.experts == 1:
            return chosen.expand(*values.shape[:-1], -1, -1)
        scores = functional.linear(values, self.gated_route)
        return scores.view(*scores.shape[:-1], -1, config.experts).softmax(dim=-1) * chosen

    def merged(self, family: int) -> Tensor:
        """The one matrix that does what one family does.

        Raises:
            UserError: a router decides among several experts, token by token.
        """
        config = self._config
        if config.experts > 1:
            raise UserError(
                f"adapters: a router divides each token among {config.experts} experts, which no single matrix does; "
                "serve them with the engine torch, or train with adapter_experts = 1"
            )
        own = slice(family * config.rank, (family + 1) * config.rank)
        product = self.gated_b[:, own].float() @ self.gated_a[own].float() * config.scale
        return (self.weight.float() + product).to(self.weight.dtype)


@contextmanager
def told_families(families: Tensor | None) -> Iterator[None]:
    """The families of the tokens that this thread feeds to layers meanwhile; None means the default for all."""
    before = _told.set(families)
    try:
        yield
    finally:
        _told.reset(before)


def install(layers: nn.ModuleList, config: AdapterConfig) -> None:
    """Put adapters beside every matrix of the language model's layers."""
    for parent in list(layers.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, Gated(child, config))
    for layer in layers:
        # Attention comes first in a layer and, unlike the layer's own hooks, runs again where activations are computed
        # again, in whatever thread that is.
        layer.get_submodule("self_attn").register_forward_pre_hook(_tell, with_kwargs=True)


def _tell(_attention: nn.Module, _args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    _told.set(named.get(ARGUMENT))


def merge(layers: nn.ModuleList, family: int) -> None:
    """Make one family part of the matrices of the layers, and forget the others.

    Raises:
        UserError: it has more than one expert.
    """
    for parent in list(layers.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Gated):
                linear = nn.Linear(child.in_features, child.out_features, bias=child.bias is not None, device="meta")
                linear.weight = nn.Parameter(child.merged(family).detach(), requires_grad=False)
                linear.bias = child.bias
                setattr(parent, name, linear)


def at_positions(values_BT: Tensor, input_ids_BT: Tensor, is_real_BT: Tensor, *, tokens_per_image: int) -> Tensor:
    """(B, L) from one value for each token: an image's for all of its positions; padded with zero on the right."""
    width_BT = is_real_BT.long() + ((input_ids_BT == IMAGE_TOKEN_ID) & is_real_BT) * (tokens_per_image - 1)
    rows = [values_T.repeat_interleave(width_T) for values_T, width_T in zip(values_BT, width_BT, strict=True)]
    return pad_sequence(rows, batch_first=True)

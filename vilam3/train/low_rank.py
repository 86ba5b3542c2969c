"""Low-rank adaptation of the language model: the published matrices stay, and a thin product beside each one learns.

LoRA: W x becomes W x + (alpha / rank) B A x, with B zero in the beginning (Hu et al. 2021, section 4.1).
DoRA: length and direction of that matrix's rows learn apart: with W' = W + (alpha / rank) B A it becomes
m W' x / |W'|, where m and |W'| have one entry for each row and m begins as |W| (Liu et al. 2024, equation 5). Gradients
take |W'| as a constant, as section 4.3 there advises. Here m - |W| is what learns: the gradient is the same, and the
beginning is exact in any precision.
Task-gated: each family of tasks has products of its own, see `vilam3.model.gated`; they are saved beside the matrices.
Of the others what is saved is the one matrix that does the same, in the published layout: whoever loads a model need
not know how it was trained.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from vilam3.errors import RecipeError
from vilam3.model import checkpoint
from vilam3.model.checkpoint import Loaded
from vilam3.model.families import AdapterConfig
from vilam3.model.gated import GATED, Gated, install
from vilam3.model.vila import Vila
from vilam3.settings import Stage

A, B, LENGTH, WEIGHT = ".lora_a", ".lora_b", ".lora_length", ".weight"
BESIDE = (A, B, LENGTH, *GATED)


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
        return functional.linear(values, self.weight, self.bias) + self._added(values)

    def _added(self, values: Tensor) -> Tensor:
        return functional.linear(functional.linear(values, self.lora_a), self.lora_b) * self._scale


class Decomposed(LowRank):
    """The same, where the lengths of the rows learn apart from their directions."""

    def __init__(self, linear: nn.Linear, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        """Share the weight of `linear` and its name; `lora_length` is added to the lengths of its rows."""
        super().__init__(linear, rank=rank, alpha=alpha, generator=generator)
        self.lora_length = nn.Parameter(linear.weight.new_zeros(linear.out_features))

    def forward(self, values: Tensor) -> Tensor:
        """As the layer, with the product added and each row brought to its length."""
        before, moved = self._lengths()
        gain = (before + self.lora_length) / moved
        turned = functional.linear(values, self.weight) + self._added(values)
        found = turned * gain.to(turned.dtype)
        return found if self.bias is None else found + self.bias

    @torch.no_grad()
    def _lengths(self) -> tuple[Tensor, Tensor]:
        """Of the rows as they were and with the product, which is never made: |w + ba|^2 = |w|^2 + 2 w.ba + |ba|^2."""
        with torch.autocast(self.weight.device.type, enabled=False):
            before = torch.linalg.vector_norm(self.weight, dim=1, dtype=torch.float32)
            rows = self.lora_b.float() * self._scale
            along = functional.linear(self.weight, self.lora_a).float()
            among = functional.linear(self.lora_a, self.lora_a).float()
            squared = before**2 + (rows * (2 * along + rows @ among)).sum(dim=1)
        return before, squared.clamp(min=0).sqrt()


KINDS: Mapping[str, type[LowRank]] = {"lora": LowRank, "dora": Decomposed}


def adapt(loaded: Loaded, stage: Stage, *, seed: int) -> Loaded:
    """The network with products beside every matrix of the language model's layers, where nothing else of it learns.

    Raises:
        RecipeError: the network has task adapters already, and the stage does not go on with the very same.
    """
    before, wanted = loaded.config.adapters, adapter_config(stage)
    if before is not None and before != wanted:
        raise RecipeError(
            f"adapter_tasks: the base has task adapters ({', '.join(before.names)}) and this stage other ones or none; "
            "repeat the settings they were trained with, or make one family part of the base by vilam3 model merge"
        )
    if not stage.lora_rank:
        return loaded
    generator = torch.Generator().manual_seed(seed)
    if wanted is None:
        _put_beside(loaded.model, stage, generator)
    elif before is None:
        loaded = _gated(loaded, wanted, generator)
    for name, weight in loaded.model.llm.named_parameters():
        weight.requires_grad_(name.endswith(BESIDE))
    return loaded


def adapter_config(stage: Stage) -> AdapterConfig | None:
    """The task-gated adapters that a stage trains, if any."""
    if not stage.adapter_tasks:
        return None
    return AdapterConfig(
        families={name: tuple(sorted(datasets)) for name, datasets in sorted(stage.adapter_tasks.items())},
        default=stage.adapter_default,
        experts=stage.adapter_experts,
        rank=stage.lora_rank,
        alpha=stage.lora_alpha,
    )


def families_of(stage: Stage) -> dict[str, int]:
    """The number of the family of each data set; empty where there are no families."""
    adapters = adapter_config(stage)
    if adapters is None:
        return {}
    return {name: adapters.number_of(name) for name, weight in stage.mixture.items() if weight}


def _put_beside(model: Vila, stage: Stage, generator: torch.Generator) -> None:
    kind = KINDS[stage.lora_kind]
    for parent in list(model.llm.model.layers.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, kind(child, rank=stage.lora_rank, alpha=stage.lora_alpha, generator=generator))


def _gated(loaded: Loaded, adapters: AdapterConfig, generator: torch.Generator) -> Loaded:
    install(loaded.model.llm.model.layers, adapters)
    for module in loaded.model.llm.modules():
        if isinstance(module, Gated):
            module.draw(generator)
    config = replace(loaded.config, adapters=adapters)
    loaded.model.config = config
    return replace(loaded, config=config)


def added_up(loaded: Loaded, stage: Stage, weights: Mapping[str, Tensor]) -> Loaded:
    """The network of these weights by name, with what learned beside a matrix for all tasks made part of it."""
    if stage.adapter_tasks:
        return checkpoint.filled(loaded, weights)
    whole = {name: weight for name, weight in weights.items() if not name.endswith(BESIDE)}
    for name in weights:
        if name.endswith(A):
            layer = name.removesuffix(A)
            before = whole[layer + WEIGHT]
            product = weights[layer + B].float() @ weights[name].float() * (stage.lora_alpha / stage.lora_rank)
            weight = before.float() + product
            if (length := weights.get(layer + LENGTH)) is not None:
                aimed = torch.linalg.vector_norm(before.float(), dim=1) + length.float()
                weight *= (aimed / torch.linalg.vector_norm(weight, dim=1))[:, None]
            whole[layer + WEIGHT] = weight.to(before.dtype)
    return checkpoint.filled(loaded, whole)

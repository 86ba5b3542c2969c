"""DeepSpeed's ZeRO 1, 2 and 3 behind our own steps and checkpoints; the only module that imports DeepSpeed.

DeepSpeed divides weights, gradients and moments, and sums gradients. Batches, the learning rate, checkpoints and
resuming stay ours, so that they are the same for every strategy.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vilam3.model.vila import Output, Vila
from vilam3.recipe import Recipe
from vilam3.settings import Stage
from vilam3.train.peers import Peers
from vilam3.train.step import Batch, fresh_moments, loss_of, make_optimizer
from vilam3.train.strategy import Kind

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when DeepSpeed is imported

import deepspeed
from deepspeed import ops
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_get_local_fp32_param,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)

# A faster sum between processes of one machine without accelerators. It would be compiled at start, which takes minutes
# and leaves a lock behind when it is killed, on which every later start waits for ever.
ops.__compatible_ops__["deepspeed_shm_comm"] = False
WHOLE_LEVEL = 3  # at which weights are divided too
BUCKET_NUMEL = 1 << 26
KEPT_ROWS = 10  # a weight of fewer rows of the model's width stays whole: norms and biases


class _Scored(nn.Module):
    """The network with its output as a tuple, whose tensors DeepSpeed finds."""

    def __init__(self, network: Vila) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor | None, int, Tensor]:  # noqa: ANN401 - those of `Vila.forward`
        output = self.network.forward(*args, **kwargs)  # not the module: DeepSpeed's hooks know no frozen dataclass
        return output.loss, output.num_targets, output.mask_BL


class Zero:
    """See `vilam3.train.strategy.Strategy`."""

    moves_together = True

    def __init__(self, model: Vila, recipe: Recipe, stage: Stage, *, peers: Peers, level: int) -> None:
        """Divide `model` at ZeRO level 1, 2 or 3."""
        self._model = model
        self._peers = peers
        self._level = level
        self.shapes = {name: tuple(one.shape) for name, one in model.named_parameters() if one.requires_grad}
        optimizer = make_optimizer(model, stage)
        optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
        self._engine: Any = deepspeed.initialize(
            model=_Scored(model),
            optimizer=optimizer,
            config=_config(recipe, stage, level=level, width=model.config.llm.hidden_size),
            dist_init_required=False,
        )[0]
        self._optimizer: Any = self._engine.optimizer
        self._weights = dict(model.named_parameters())
        self._prepare_moments()

    def add_gradients(self, batches: Sequence[Batch], *, num_targets: int) -> list[float]:
        """See `Strategy`."""
        losses = []
        for place, batch in enumerate(batches, start=1):
            self._engine.set_gradient_accumulation_boundary(place == len(batches))
            share = batch.num_targets / max(num_targets, 1)
            # With bfloat16 the weights are of that type already: nothing is left to convert automatically.
            loss = loss_of(self._model, batch, precision=torch.float32, network=self._score) * share
            self._engine.backward(loss * self._peers.world_size)  # which DeepSpeed divides by
            losses.append(float(loss.detach()))
        return losses

    def measure(self, batches: Sequence[Batch]) -> list[float]:
        """See `Strategy`."""
        with torch.no_grad():
            return [float(loss_of(self._model, one, precision=torch.float32, network=self._score)) for one in batches]

    def move(self, *, learning_rate: float) -> float:
        """See `Strategy`."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm() or 0.0)

    def full(self, name: str, kind: Kind) -> Tensor:
        """See `Strategy`."""
        weight = self._weights[name]
        if kind == "step":
            return torch.tensor(self._steps())
        found = (
            safe_get_full_fp32_param(weight)
            if kind == "weight"
            else safe_get_full_optimizer_state(weight, optim_state_key=kind)
        )
        assert found is not None
        return found.detach().float().view(self.shapes[name])

    def put(self, name: str, kind: Kind, value: Tensor) -> None:
        """See `Strategy`."""
        if kind == "step":
            for state in self._adam_state().values():
                state["step"].fill_(max(float(value), float(state["step"])))
        elif self._level == WHOLE_LEVEL:
            self._put_part(self._weights[name], kind, value)
        elif kind == "weight":
            self._weights[name].data.copy_(value)
            safe_set_full_fp32_param(self._weights[name], value)
        else:
            safe_set_full_optimizer_state(self._weights[name], value, optim_state_key=kind)

    def _put_part(self, weight: Any, kind: Kind, value: Tensor) -> None:  # noqa: ANN401 - a weight with DeepSpeed's fields
        """This member's part, with DeepSpeed's own zeros behind the last one."""
        numel = weight.ds_tensor.numel()
        padded = value.new_zeros(numel * self._peers.world_size)
        padded[: value.numel()] = value.flatten()
        part = padded.narrow(0, numel * self._peers.rank, numel)
        if kind != "weight":
            safe_set_local_optimizer_state(weight, part, optim_state_key=kind)
            return
        assert safe_get_local_fp32_param(weight).numel() == numel
        safe_set_local_fp32_param(weight, part)
        weight.ds_tensor.data.copy_(part)
        if weight.data.numel() == value.numel():  # one of those that stay whole, and is by now
            weight.data.copy_(value)

    def network(self) -> Iterator[tuple[str, Tensor]]:
        """See `Strategy`."""
        for name, weight in self._weights.items():
            if weight.requires_grad:
                yield name, self.full(name, "weight")
            elif self._level < WHOLE_LEVEL:
                yield name, weight.detach()
            else:
                with deepspeed.zero.GatheredParameters([weight]):
                    yield name, weight.detach().clone()

    def close(self) -> None:
        """See `Strategy`."""
        self._engine.destroy()

    def _score(self, *args: Any, **kwargs: Any) -> Output:  # noqa: ANN401 - those of `Vila.forward`
        loss, num_targets, mask_BL = self._engine(*args, **kwargs)
        return Output(loss=loss, num_targets=num_targets, mask_BL=mask_BL)

    def _prepare_moments(self) -> None:
        """DeepSpeed makes them in its first step, and then names only those of the group that it moved first."""
        for flat in self._flat_weights():
            self._adam_state()[flat] = fresh_moments(flat.detach())
        if self._level < WHOLE_LEVEL:
            self._optimizer._lazy_init_hp_params_optimizer_state()  # noqa: SLF001 - names the parts of the moments

    def _adam_state(self) -> Any:  # noqa: ANN401 - torch's own
        return self._optimizer.optimizer.state

    def _flat_weights(self) -> list[Tensor]:
        """What Adam sees: this member's part of all weights in one piece for each group."""
        whole = self._level == WHOLE_LEVEL
        zero = self._optimizer
        found: list[Tensor] = zero.fp32_partitioned_groups_flat if whole else zero.single_partition_of_fp32_groups
        return found

    def _steps(self) -> float:
        return max((float(state["step"]) for state in self._adam_state().values()), default=0.0)


def _config(recipe: Recipe, stage: Stage, *, level: int, width: int) -> dict[str, Any]:
    """Everything else is DeepSpeed's default; batches are cut by us, so it counts one."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": stage.gradient_clip,
        "bf16": {"enabled": recipe.model.precision == "bfloat16"},
        "steps_per_print": 1 << 30,
        "zero_optimization": {
            "stage": level,
            "overlap_comm": torch.cuda.is_available(),
            "reduce_bucket_size": BUCKET_NUMEL,
            "allgather_bucket_size": BUCKET_NUMEL,
            "stage3_param_persistence_threshold": KEPT_ROWS * width,
        },
    }

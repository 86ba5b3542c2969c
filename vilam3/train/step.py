"""One optimizer step: from batches to a loss and moved weights; knows no files, launcher or platform.

The loss is the mean over the target tokens of the whole step, however the step is cut into forward passes, as the
published training weighs its ranks.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from vilam3.errors import DataError, DivergedError
from vilam3.model.config import IGNORED_LABEL, IMAGE_TOKEN_ID, TowerConfig
from vilam3.model.intern_vit import InternTower
from vilam3.model.segments import ALONE
from vilam3.model.vila import Output, Vila
from vilam3.settings import Part, Stage
from vilam3.train.gradients import accumulate
from vilam3.train.prefix import loss_after_prefix

ADAM_BETA1 = 0.9
MOST_NAMED = 16
Network = Callable[..., Output]
PARTS: tuple[Part, ...] = ("vision_tower", "mm_projector", "llm")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Samples of one forward pass, padded on the right. B samples, T tokens, N images, S pixels.

    Attributes:
        input_ids_BT: Token ids with the image placeholder where an image goes.
        labels_BT: Targets; ignored where nothing is to be learned.
        mask_BT: True at real tokens.
        pixels_NCHW: All images in order of appearance, uint8, or None without images.
        num_targets: Targets that the loss will see.
        num_shared: Leading tokens that are the same in all rows and can be run once; see `vilam3.train.prefix`.
        samples: Names of the samples.
        starts_BT: How samples begin in rows that hold several, see `vilam3.model.segments`; None where each holds one.
        families_BT: Family of tasks of each token, see `vilam3.model.gated`; None where there are none.
    """

    input_ids_BT: Tensor
    labels_BT: Tensor
    mask_BT: Tensor
    pixels_NCHW: Tensor | None
    num_targets: int
    num_shared: int = 0
    samples: tuple[str, ...] = ()
    starts_BT: Tensor | None = None
    families_BT: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one step did; `loss` is the mean over `num_targets` tokens before the step."""

    loss: float
    gradient_norm: float
    num_targets: int


def freeze(model: Vila, *, trainable: Iterable[Part]) -> None:
    """Let only these parts learn."""
    kept = set(trainable)
    for part in PARTS:
        getattr(model, part).requires_grad_(part in kept)


def checkpoint_activations(model: Vila) -> None:
    """Keep each layer's input alone in memory and compute the rest again in the backward pass; SigLIP is kept whole."""
    model.llm.activation_checkpointing_enable({"use_reentrant": False})
    if isinstance(model.vision_tower, InternTower):
        model.vision_tower.recomputes = True


def no_samples() -> Batch:
    """A batch of nothing, for a member of a gang that has no more samples while others have."""
    ids_0T = torch.zeros((0, 1), dtype=torch.long)
    return Batch(input_ids_BT=ids_0T, labels_BT=ids_0T, mask_BT=ids_0T.bool(), pixels_NCHW=None, num_targets=0)


def in_lockstep(batch: Batch, *, image_size: int) -> Batch:
    """The batch so that it runs every part of the network once: with a black picture where it has none.

    Where the members of a gang exchange weights or gradients layer by layer, one that left out the vision tower would
    leave the others waiting. The picture has a row of its own in which nothing is learned.
    """
    if batch.pixels_NCHW is not None:
        return replace(batch, num_shared=0)
    row_1T = torch.zeros((1, batch.input_ids_BT.shape[1]), dtype=torch.long)
    row_1T[0, 0] = IMAGE_TOKEN_ID
    is_first_1T = torch.arange(row_1T.shape[1])[None] == 0
    return replace(
        batch,
        input_ids_BT=torch.cat([batch.input_ids_BT, row_1T]),
        labels_BT=torch.cat([batch.labels_BT, torch.full_like(row_1T, IGNORED_LABEL)]),
        mask_BT=torch.cat([batch.mask_BT, is_first_1T]),
        starts_BT=None if batch.starts_BT is None else torch.cat([batch.starts_BT, is_first_1T * ALONE]),
        families_BT=None if batch.families_BT is None else torch.cat([batch.families_BT, torch.zeros_like(row_1T)]),
        pixels_NCHW=torch.zeros((1, 3, image_size, image_size), dtype=torch.uint8),
        num_shared=0,
    )


def make_optimizer(model: nn.Module, stage: Stage) -> torch.optim.AdamW:
    """AdamW over what may learn; vectors (norms and biases) do not decay, as in the published training."""
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in learning if weight.ndim > 1], "weight_decay": stage.weight_decay},
        {"params": [weight for weight in learning if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(ADAM_BETA1, stage.adam_beta2))


def fresh_moments(weight: Tensor) -> dict[str, Tensor]:
    """Adam's state of a weight that was never moved; there from the start, so that it can be read and replaced."""
    return {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}


def make_scheduler(optimizer: torch.optim.Optimizer, stage: Stage, *, steps: int) -> LambdaLR:
    """The stage's learning-rate curve over `steps` optimizer steps."""
    return LambdaLR(optimizer, lambda step: rate_factor(step, steps=steps, warmup_ratio=stage.warmup_ratio))


def rate_factor(step: int, *, steps: int, warmup_ratio: float) -> float:
    """Share of the peak learning rate at `step`, counted from 0: linear warm-up, then half a cosine down to 0."""
    warmup = math.ceil(steps * warmup_ratio)
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def train_step(
    model: Vila,
    batches: Sequence[Batch],
    *,
    optimizer: torch.optim.Optimizer,
    scheduler: LambdaLR,
    gradient_clip: float,
    precision: torch.dtype = torch.float32,
    workers: Executor | None = None,
) -> StepResult:
    """Accumulate the gradients of all batches and move the weights once.

    Args:
        model: In training mode.
        batches: Together one global batch.
        optimizer: Over the trainable weights.
        scheduler: Of the optimizer; moved on by one step.
        gradient_clip: Largest gradient norm; 0 leaves gradients as they are.
        precision: Arithmetic of the forward pass.
        workers: Threads that compute a batch each; None computes one after the other. The result is the same.

    Raises:
        DivergedError: the loss is no number; the weights are as they were.
    """
    num_targets = sum(batch.num_targets for batch in batches)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    optimizer.zero_grad(set_to_none=True)

    def share_of(batch: Batch) -> Tensor:
        return loss_of(model, batch, precision=precision) * (batch.num_targets / max(num_targets, 1))

    total = accumulate(share_of, batches, weights, workers=workers)
    if not math.isfinite(total):
        raise diverged(total, step=scheduler.last_epoch + 1, samples=[name for one in batches for name in one.samples])
    gradients_of(weights)
    norm = nn.utils.clip_grad_norm_(weights, gradient_clip or math.inf)
    optimizer.step()
    scheduler.step()
    return StepResult(loss=total, gradient_norm=float(norm), num_targets=num_targets)


def gradients_of(weights: Iterable[Tensor]) -> list[Tensor]:
    """Of every weight, zero where no sample of the step has set one, such as in the vision tower by text alone.

    Adam then forgets a little of what it saw there, as it does wherever weights are divided among processes: so the
    result does not depend on who trains.
    """
    found = []
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        found.append(weight.grad)
    return found


def refuse_too_many(skipped: Sequence[str], *, most: int) -> None:
    """Stop where more samples were left out than a stage may do without.

    Raises:
        DataError: they are named.
    """
    if len(skipped) > most:
        raise DataError(
            f"{len(skipped)} samples have pictures that cannot be read, more than corrupt_images_max={most}: "
            f"{_named(skipped)}; mend or remove them, or allow more"
        )


def diverged(loss: float, *, step: int, samples: Sequence[str]) -> DivergedError:
    """The error of a step whose loss is no number."""
    return DivergedError(
        f"step {step}: the loss is {loss} on samples {_named(samples)}; the last checkpoint is "
        "kept; lower learning_rate, or mend or remove these samples"
    )


def _named(samples: Sequence[str]) -> str:
    more = f" and {len(samples) - MOST_NAMED} more" if len(samples) > MOST_NAMED else ""
    return ", ".join(samples[:MOST_NAMED]) + more


def loss_of(model: Vila, batch: Batch, *, precision: torch.dtype, network: Network | None = None) -> Tensor:
    """Mean cross-entropy over the targets of a batch.

    Args:
        model: The network.
        batch: Of which every part but the weights is moved to the network's device.
        precision: Arithmetic of the forward pass.
        network: What is called in place of `model`, where a strategy has wrapped it.
    """
    device = model.device
    pixels = None if batch.pixels_NCHW is None else normalise_pixels(batch.pixels_NCHW.to(device), model.config.vision)
    ids_BT, labels_BT, mask_BT = (one.to(device) for one in (batch.input_ids_BT, batch.labels_BT, batch.mask_BT))
    families_BT = None if batch.families_BT is None else batch.families_BT.to(device)
    with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
        if (
            batch.num_shared and not model.llm.is_activation_checkpointing
        ):  # a cache and recomputation exclude each other
            return loss_after_prefix(
                model,
                ids_BT,
                pixels,
                mask_BT=mask_BT,
                labels_BT=labels_BT,
                length=batch.num_shared,
                families_BT=families_BT,
            )
        starts_BT = None if batch.starts_BT is None else batch.starts_BT.to(device)
        rows = {"attention_mask_BT": mask_BT, "labels_BT": labels_BT, "starts_BT": starts_BT}
        output = (network or model)(ids_BT, pixels, **rows, families_BT=families_BT)
    assert output.loss is not None
    assert output.num_targets == batch.num_targets
    loss: Tensor = output.loss
    return loss


def normalise_pixels(pixels_NCHW: Tensor, vision: TowerConfig) -> Tensor:
    """uint8 to the tower's range, bit for bit as `vilam3.model.images`: one rounding from float64, then float32."""
    unit_NCHW = (pixels_NCHW.double() * (1 / 255)).float()
    mean_C11, std_C11 = (unit_NCHW.new_tensor(each)[:, None, None] for each in (vision.mean, vision.std))
    return (unit_NCHW - mean_C11) / std_C11

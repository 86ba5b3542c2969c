"""What a recipe will take, before anything starts: steps, tokens, memory, checkpoints, GPU-hours and cost.

Steps, weights, model states and checkpoint sizes follow from the recipe. Tokens, activations, hours and cost rest on
`Assumptions`, which every output repeats. No tensors are made and no data is read but the number of samples.
Bytes a weight: ZeRO's own account (Rajbhandari et al. 2020, section 3.1): half-precision weight and gradient, and
single-precision weight and two moments of AdamW.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from vilam3.errors import RecipeError
from vilam3.model.config import VilaConfig
from vilam3.model.sizes import adapted_rows, gated_weights, image_operations, llm_operations, low_rank_weights, sizes
from vilam3.recipe import Recipe
from vilam3.settings import Part, Stage
from vilam3.train.expense import Planned
from vilam3.train.network import network_config

ZERO_STAGES = (0, 1, 2, 3)
FLOW: tuple[Part, ...] = ("vision_tower", "mm_projector", "llm")  # in the order of the forward pass
WEIGHT_BYTES = {"bfloat16": 2, "float32": 4}
OPTIMIZER_BYTES = {"bfloat16": 12, "float32": 8}  # AdamW's moments, and a single-precision copy of half weights
LAYER_ACTIVATIONS = 17  # values of a layer's width kept a position for the backward pass, attention fused
MEAN_TOKENS, MEAN_IMAGES = 350.0, 1.0  # of a sample, where neither recipe nor user says
STATE_BYTES = 12  # a saved training state: single-precision weights and moments, whatever the arithmetic


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One kind, by its maker's data sheet: dense bfloat16, board memory and power limit.

    `product` is what its driver's name for it contains.
    """

    name: str
    product: str
    operations_per_s: float
    memory_bytes: int
    watts: int


ACCELERATORS = {
    kind.name: kind
    for kind in (
        Accelerator(name="a100-80gb", product="A100", operations_per_s=312e12, memory_bytes=80 * 10**9, watts=400),
        Accelerator(name="h100", product="H100", operations_per_s=989e12, memory_bytes=80 * 10**9, watts=700),
        Accelerator(name="h200", product="H200", operations_per_s=989e12, memory_bytes=141 * 10**9, watts=700),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What a plan must take on trust.

    Attributes:
        accelerator: Kind of device.
        utilisation: Share of the device's peak that the model's own operations reach (MFU), recomputation not counted.
        tokens_per_sample: Mean positions of a sample, image positions included; None: what the recipe says of a stage.
        images_per_sample: Mean images of a sample; likewise.
        price_per_hour: Of one device; None plans no cost.
    """

    accelerator: Accelerator
    utilisation: float = 0.35
    tokens_per_sample: float | None = None
    images_per_sample: float | None = None
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        """Check what a user may get wrong."""
        if not 0 < self.utilisation <= 1:
            raise RecipeError(f"plan: utilisation {self.utilisation} is not a share; give more than 0 and at most 1")
        for name in ("tokens_per_sample", "images_per_sample", "price_per_hour"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise RecipeError(f"plan: {name} {value} must be a number that is not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSize:
    """Mean positions, image positions included, and mean images of a sample."""

    tokens: float
    images: float

    @classmethod
    def of(cls, stage: Stage, config: VilaConfig, assumptions: Assumptions) -> "SampleSize":
        """As the user says, else as the recipe does, else what is usual."""
        tokens, images = assumptions.tokens_per_sample, assumptions.images_per_sample
        if images is None:
            images = stage.mean_images or MEAN_IMAGES
        if tokens is None:
            text = stage.mean_text_tokens
            tokens = MEAN_TOKENS if text is None else text + images * config.tokens_per_image
        return cls(tokens=tokens, images=images)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a stage does and takes.

    Attributes:
        steps: Optimizer steps.
        samples: Of all epochs.
        tokens: Positions, image positions included.
        gpu_hours: Devices times time.
        wall_hours: Time.
        energy_kwh: At most, of the devices alone: their power limit all the time.
        cost: In the currency of the price; None without a price.
    """

    steps: int
    samples: int
    tokens: int
    gpu_hours: float
    wall_hours: float
    energy_kwh: float
    cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage.

    Attributes:
        name: Of the stage.
        devices: Data-parallel processes.
        zero_stage: The recipe's choice.
        tokens_per_sample: Mean that the figures rest on.
        images_per_sample: Likewise.
        trainable: Weights that learn.
        states_bytes: Weights, gradients and optimizer on one device, by ZeRO stage.
        activations_bytes: Beside them, for one forward pass of samples of the assumed length.
        checkpoint_bytes: The published layout, with adapters that are kept beside it.
        resume_bytes: What a resume needs beside it, over all devices.
        work: None where the number of samples is not known.
        unknown: Data sets whose number of samples is not known.
    """

    name: str
    devices: int
    zero_stage: int
    tokens_per_sample: float
    images_per_sample: float
    trainable: int
    states_bytes: Mapping[int, int]
    activations_bytes: int
    checkpoint_bytes: int
    resume_bytes: int
    work: Work | None
    unknown: tuple[str, ...] = ()

    @property
    def peak_bytes(self) -> int:
        """On one device, as the recipe chooses."""
        return self.states_bytes[self.zero_stage] + self.activations_bytes


def plan(recipe: Recipe, assumptions: Assumptions, *, sizes_known: Mapping[str, int] | None = None) -> list[StagePlan]:
    """Plan every stage of a recipe.

    Args:
        recipe: Resolved.
        assumptions: What the recipe does not say.
        sizes_known: Samples by data set, where a corpus is at hand; else the recipe's published counts.
    """
    return [_stage(recipe, name, assumptions, sizes_known) for name in recipe.stage_names]


def _stage(recipe: Recipe, name: str, assumptions: Assumptions, known: Mapping[str, int] | None) -> StagePlan:
    stage, config = recipe.stage(name), network_config(recipe.model)
    samples = dict(stage.published_samples if known is None else known)
    unknown = tuple(sorted(name for name, weight in stage.mixture.items() if weight and name not in samples))
    counted, precision, size = sizes(config), recipe.model.precision, SampleSize.of(stage, config, assumptions)
    trainable = learning_weights(config, stage)
    kept_beside = _adapter_weights(config, stage) if stage.adapter_tasks else 0
    return StagePlan(
        name=name,
        devices=stage.devices,
        zero_stage=stage.zero_stage,
        tokens_per_sample=size.tokens,
        images_per_sample=size.images,
        trainable=trainable,
        states_bytes={
            zero: states_bytes(counted.total, trainable, devices=stage.devices, zero_stage=zero, precision=precision)
            for zero in ZERO_STAGES
        },
        activations_bytes=_activations_bytes(config, stage, size, WEIGHT_BYTES[precision]),
        checkpoint_bytes=(counted.total + kept_beside) * (2 if config.model_dtype == "torch.bfloat16" else 4),
        resume_bytes=trainable * STATE_BYTES,
        work=None if unknown and stage.steps is None else _work(config, stage, assumptions, samples),
        unknown=unknown,
    )


def learning_weights(config: VilaConfig, stage: Stage) -> int:
    """How many weights the stage moves."""
    counted = sizes(config)
    whole = [part for part in stage.trainable if not (part == "llm" and stage.lora_rank)]
    return sum(counted.of(part) for part in whole) + _adapter_weights(config, stage)


def _adapter_weights(config: VilaConfig, stage: Stage) -> int:
    """Of what learns beside the language model's matrices."""
    if not stage.adapter_tasks:
        return low_rank_weights(config.llm, rank=stage.lora_rank, has_lengths=stage.lora_kind == "dora")
    products = len(stage.adapter_tasks) * stage.adapter_experts
    routes = products if stage.adapter_experts > 1 else 0
    return gated_weights(config.llm, products=products, routes=routes, rank=stage.lora_rank)


def states_bytes(total: int, trainable: int, *, devices: int, zero_stage: int, precision: str) -> int:
    """Weights, gradients and optimizer on one of `devices`.

    Args:
        total: Weights of the network.
        trainable: Of them, those that learn.
        devices: Data-parallel processes.
        zero_stage: 1 divides the optimizer among the devices, 2 the gradients as well, 3 the weights as well.
        precision: Of the arithmetic, ``bfloat16`` or ``float32``.
    """
    weights, gradients = total * WEIGHT_BYTES[precision], trainable * WEIGHT_BYTES[precision]
    optimizer = trainable * OPTIMIZER_BYTES[precision]
    divided = sum((optimizer, gradients, weights)[:zero_stage])
    return weights + gradients + optimizer - divided + -(-divided // devices)


def _activations_bytes(config: VilaConfig, stage: Stage, size: SampleSize, width: int) -> int:
    """Of the language model; with recomputation only each layer's input and one layer's inside are held."""
    llm = config.llm
    length = min(size.tokens, stage.max_tokens)
    positions = stage.packed_rows * stage.max_tokens or stage.micro_batch * length
    layer = positions * llm.hidden_size * width
    layers = llm.num_hidden_layers
    inside = LAYER_ACTIVATIONS + (adapted_rows(llm) / llm.hidden_size if stage.lora_kind == "dora" else 0)
    kept = layers + inside if stage.gradient_checkpointing else layers * inside
    logits = positions * llm.vocab_size * (width + 4)  # and once more in single precision, for the loss
    return round(kept * layer + logits)


def _work(config: VilaConfig, stage: Stage, assumptions: Assumptions, sizes_known: dict[str, int]) -> Work:
    steps = stage.planned_steps(sizes_known)
    samples = steps * stage.global_batch
    size = SampleSize.of(stage, config, assumptions)
    operations = samples * sample_operations(config, stage.trainable, size, adapts=stage.lora_rank > 0)
    hours = operations / (assumptions.accelerator.operations_per_s * assumptions.utilisation) / 3600
    return Work(
        steps=steps,
        samples=samples,
        tokens=round(samples * size.tokens),
        gpu_hours=hours,
        wall_hours=hours / stage.devices,
        energy_kwh=hours * assumptions.accelerator.watts / 1000,
        cost=None if assumptions.price_per_hour is None else hours * assumptions.price_per_hour,
    )


def sample_operations(
    config: VilaConfig, trainable: tuple[Part, ...], size: SampleSize, *, adapts: bool = False
) -> float:
    """Operations of forward and backward pass of one sample.

    A part costs its forward pass once; once more where gradients pass through it, because it or a part before it
    learns; and once more where its own weights get gradients, which the language model's do not where it `adapts` by
    products of low rank; their own operations are left out.
    """
    length = size.tokens
    tower, projector = image_operations(config)
    forward = {
        "vision_tower": size.images * tower,
        "mm_projector": size.images * projector,
        "llm": length * llm_operations(config.llm, length=length),
    }
    total, passes_through = 0.0, False
    for part in FLOW:
        passes_through = passes_through or part in trainable
        moves = part in trainable and not (adapts and part == "llm")
        total += forward[part] * (1 + passes_through + moves)
    return total


def planned(recipe: Recipe, name: str, *, sizes_known: Mapping[str, int], device: str) -> Planned:
    """What a stage that is about to start will take; hours where `device`, as its driver names it, is a known kind."""
    kind = next((one for one in ACCELERATORS.values() if device and one.product in device), None)
    assumptions = Assumptions(accelerator=kind or ACCELERATORS["h100"])
    found = _stage(recipe, name, assumptions, sizes_known)
    assert found.work is not None  # the samples are counted by now
    if kind is None:
        return Planned(steps=found.work.steps)
    assumed = f"{kind.name} at {assumptions.utilisation:.0%} of its peak, {found.tokens_per_sample:g} tokens a sample"
    return Planned(steps=found.work.steps, gpu_hours=found.work.gpu_hours, assumed=assumed)

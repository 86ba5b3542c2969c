"""The groups of settings a recipe is made of; each docstring under a field is its description.

Cross-field rules live beside the fields they bind.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from vilam3.data.sample import Dialect
from vilam3.model.config import Preset

Part = Literal["vision_tower", "mm_projector", "llm"]
StageName = Literal["stage1_align", "stage2_pretrain", "stage3_instruct", "stage4_expert"]
STAGES: tuple[StageName, ...] = ("stage1_align", "stage2_pretrain", "stage3_instruct", "stage4_expert")
Fraction = Annotated[float, Field(ge=0, le=1)]
Quantity = Annotated[str, Field(pattern=r"^[0-9.]+(m|Ki|Mi|Gi|Ti)?$")]


class Settings(BaseModel):
    """Frozen and closed; the docstring under each field is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class LlmSizes(Settings):
    """Overrides of the preset's language model; what is absent stays as the preset says."""

    hidden_size: PositiveInt | None = None
    """Width."""
    intermediate_size: PositiveInt | None = None
    """Width of the MLP."""
    num_hidden_layers: PositiveInt | None = None
    """Layers."""
    num_attention_heads: PositiveInt | None = None
    """Attention heads."""
    num_key_value_heads: PositiveInt | None = None
    """Key and value heads."""
    max_position_embeddings: PositiveInt | None = None
    """Longest sequence, image vectors included."""


class VisionSizes(Settings):
    """Overrides of the preset's vision tower; what is absent stays as the preset says."""

    hidden_size: PositiveInt | None = None
    """Width."""
    intermediate_size: PositiveInt | None = None
    """Width of the MLP."""
    num_hidden_layers: PositiveInt | None = None
    """Layers; the last one is stored but unused, as published."""
    num_attention_heads: PositiveInt | None = None
    """Attention heads."""
    image_size: PositiveInt | None = None
    """Side of the square input image in pixels."""
    patch_size: PositiveInt | None = None
    """Side of a patch in pixels."""


class ModelSettings(Settings):
    """The architecture and its words."""

    preset: Preset
    """Published size, or one as small as `tiny`."""
    template: Literal["v1", "llama_3", "hermes-2", "qwen2"]
    """Conversation template."""
    dialect: Dialect = "training"
    """Published wording of the expert protocol that the model is trained and asked in."""
    vocab_size: PositiveInt | None = None
    """Pieces of the tokenizer that is trained on the corpus when stage 1 starts from nothing."""
    llm: LlmSizes = LlmSizes()
    """Overrides of the language model's sizes."""
    vision: VisionSizes = VisionSizes()
    """Overrides of the vision tower's sizes."""
    image_whitespace: Literal["published", "as_written"] = "published"
    """Blanks around images in training: as the published training has them, or as users will send them."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of training."""


class Stage(Settings):
    """One of the four training stages."""

    trainable: Annotated[tuple[Part, ...], Field(min_length=1)]
    """Parts that learn; the others are frozen."""
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    """Peak learning rate of AdamW."""
    epochs: PositiveInt | None = None
    """Passes over the mixture; give either this or `steps`."""
    steps: PositiveInt | None = None
    """Optimizer steps; give either this or `epochs`."""
    global_batch: PositiveInt
    """Samples per optimizer step over all devices."""
    micro_batch: PositiveInt
    """Samples per device and forward pass."""
    devices: PositiveInt = 1
    """Data-parallel processes the batch is planned for; the local launcher accumulates instead."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """ZeRO partitioning of a distributed launcher; the local launcher has nothing to partition."""
    warmup_ratio: Fraction = 0.03
    """Share of the steps with a linearly rising learning rate."""
    schedule: Literal["cosine"] = "cosine"
    """How the learning rate falls after the warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay."""
    adam_beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """AdamW's memory of squared gradients; a short run from nothing must forget its first, far larger ones sooner."""
    gradient_clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0 switches clipping off."""
    max_tokens: PositiveInt = 4096
    """Longest sequence, image vectors included."""
    packed_rows: Annotated[int, Field(ge=0)] = 0
    """Rows of `max_tokens` in a forward pass, each filled with as many samples as fit; 0 pads the samples instead."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of the products that learn beside the language model's matrices, which then stay; 0 trains them whole."""
    lora_alpha: Annotated[float, Field(gt=0)] = 16.0
    """Weight of these products, divided by their rank."""
    lora_kind: Literal["lora", "dora"] = "lora"
    """`dora` lets the lengths of the matrices' rows learn apart from their directions, which the products turn."""
    adapter_tasks: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = {}
    """Families of tasks by name, each with its data sets of the mixture and whatever else questions of it call their
    task, as those of an evaluation do. Each has products of its own, which are kept beside the matrices and chosen by
    the task of a question. Empty has one for all, which is added to the matrices."""
    adapter_default: str = ""
    """Family of questions that name no task."""
    adapter_experts: PositiveInt = 1
    """Products of each family at each matrix, of `lora_rank` each, among which a router divides every token."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    template: Literal["plain"] | None = None
    """Replaces the model's conversation template in this stage."""
    mixture: Annotated[dict[str, Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """Dataset name to the number of times it is repeated in an epoch; 0 leaves it out."""
    published_samples: dict[str, PositiveInt] = {}
    """Samples per dataset where they are known beforehand; a plan can be made without the data."""
    mean_text_tokens: Annotated[float, Field(gt=0)] | None = None
    """Mean tokens of a sample beside those of its images, where known beforehand; a plan rests on it."""
    mean_images: Annotated[float, Field(gt=0)] | None = None
    """Mean images of a sample, likewise."""
    validation_samples: Annotated[int, Field(ge=0)] = 0
    """Samples, of whole patients, held out of training, whose loss is measured at every checkpoint; 0: none."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Measurements without a smaller loss on held-out samples that end the stage; 0 never ends it early."""
    corrupt_images_max: Annotated[int, Field(ge=0)] = 0
    """Samples left out because a picture of theirs cannot be read, before the stage stops; 0 stops at the first."""
    checkpoint_every_steps: PositiveInt
    """Optimizer steps between two checkpoints."""
    kept_models: Annotated[int, Field(ge=0)] = 0
    """Newest checkpoints whose weights stay beside the final ones, each a logged model; 0 keeps none."""

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")
        share = self.devices * self.micro_batch
        if self.global_batch % share:
            fitting = max(share, self.global_batch // share * share)
            raise ValueError(
                f"global_batch={self.global_batch}: not a multiple of devices*micro_batch={share}; use {fitting} or "
                f"{fitting + share}"
            )
        if self.lora_rank and "llm" not in self.trainable:
            raise ValueError(f"lora_rank={self.lora_rank}: has no effect without llm in trainable; leave it out")
        if self.lora_kind != "lora" and not self.lora_rank:
            raise ValueError(
                f"lora_kind={self.lora_kind!r}: has no effect without lora_rank; give a rank or leave it out"
            )
        if self.patience and not self.validation_samples:
            raise ValueError(f"patience={self.patience}: has no effect without validation_samples; give both")
        if self.validation_samples and not self.kept_models:
            raise ValueError(
                f"validation_samples={self.validation_samples}: needs kept_models, of which the best is one"
            )
        if not any(self.mixture.values()):
            raise ValueError("mixture: every dataset has weight 0; give at least one a positive weight")
        self._check_adapters()
        if unknown := sorted(set(self.published_samples) - set(self.mixture)):
            raise ValueError(f"published_samples.{unknown[0]}: not in mixture; add it there or remove it here")
        return self

    def _check_adapters(self) -> None:
        if not self.adapter_tasks:
            if self.adapter_default or self.adapter_experts > 1:
                raise ValueError(
                    "adapter_default, adapter_experts: have no effect without adapter_tasks; leave them out"
                )
            return
        if not self.lora_rank or self.lora_kind != "lora":
            raise ValueError('adapter_tasks: need lora_rank above 0 and lora_kind = "lora"')
        if self.adapter_default not in self.adapter_tasks:
            known = ", ".join(sorted(self.adapter_tasks))
            raise ValueError(f"adapter_default={self.adapter_default!r}: is no family; name one of {known}")
        named = [dataset for family in self.adapter_tasks.values() for dataset in family]
        if twice := sorted({one for one in named if named.count(one) > 1}):
            raise ValueError(f"adapter_tasks: {twice[0]} is named twice; a name belongs to one family")
        if idle := sorted(name for name, family in self.adapter_tasks.items() if not set(family) & set(self.mixture)):
            raise ValueError(f"adapter_tasks.{idle[0]}: none of its names is in mixture; it would learn nothing")
        if absent := sorted(name for name, weight in self.mixture.items() if weight and name not in named):
            raise ValueError(f"adapter_tasks: {absent[0]} belongs to no family; add it to one")

    @property
    def accumulation(self) -> int:
        """Forward passes per device and optimizer step."""
        return self.global_batch // (self.devices * self.micro_batch)

    def samples_per_epoch(self, sizes: dict[str, int] | None = None) -> int:
        """Samples of one pass; `sizes` holds the samples per dataset and defaults to the published counts."""
        known = self.published_samples if sizes is None else sizes
        return sum(weight * known[name] for name, weight in self.mixture.items() if weight)

    def planned_steps(self, sizes: dict[str, int] | None = None) -> int:
        """Optimizer steps of the whole stage; an incomplete last batch is not taken."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * self.samples_per_epoch(sizes) // self.global_batch


class Stages(Settings):
    """The stages in their order; one that is absent is not run."""

    stage1_align: Stage | None = None
    """Projector learns to speak the language model's language."""
    stage2_pretrain: Stage | None = None
    """Projector and language model on captions."""
    stage3_instruct: Stage | None = None
    """Everything on questions and answers."""
    stage4_expert: Stage | None = None
    """Everything on conversations that consult experts."""

    @model_validator(mode="after")
    def _have_one(self) -> Self:
        if not any(getattr(self, name) for name in STAGES):
            raise ValueError(f"no stage is given; give at least one of {', '.join(STAGES)}")
        return self


class ExpertSettings(Settings):
    """How long the small experts train."""

    vista3d_steps: PositiveInt = 300
    """Steps of the CT segmentation expert."""
    brats_steps: PositiveInt = 300
    """Steps of the brain tumour segmentation expert."""
    cxr_steps: PositiveInt = 300
    """Steps of the radiograph classification expert."""


class EvaluationSettings(Settings):
    """How the accuracy tables are made."""

    questions: PositiveInt | None = None
    """Most questions per task, the first ones of the held-out list; absent means all."""
    bootstrap_resamples: PositiveInt = 2000
    """Resamples, by patient, behind each 95 % interval."""
    batch: PositiveInt = 16
    """Conversations that are generated together."""
    max_new_tokens: PositiveInt = 64
    """Longest reply."""


class GateSettings(Settings):
    """Floors a challenger must reach, and how it is held against the champion."""

    min_accuracy: Fraction = 0.0
    """Smallest accuracy with experts, over all tasks."""
    min_gain: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Smallest gain of the expert tasks through experts; its 95 % interval must exclude zero when this is positive."""
    min_selection_accuracy: Fraction = 0.0
    """Smallest expert-selection accuracy."""
    task_floors: dict[str, Fraction] = {}
    """Smallest accuracy with experts, by task."""
    non_inferiority_margin: Fraction = 0.02
    """How far a challenger may fall below the champion on any task."""


class Toleration(Settings):
    """A Kubernetes toleration."""

    key: str = ""
    """Taint key; empty matches every key."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """How key and value are compared."""
    value: str = ""
    """Taint value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute", ""] = ""
    """Taint effect; empty matches every effect."""


class ResourceSettings(Settings):
    """What a training step asks of a cluster."""

    gpus: Annotated[int, Field(ge=0)] = 0
    """Accelerators per pod."""
    accelerator: str = "nvidia.com/gpu"
    """Resource name of the accelerator."""
    cpu: Quantity = "2"
    """CPU request and limit."""
    memory: Quantity = "8Gi"
    """Memory request and limit."""
    tolerations: tuple[Toleration, ...] = ()
    """Tolerations of the pod."""
    node_selector: dict[str, str] = {}
    """Node labels the pod asks for."""


class TrackingSettings(Settings):
    """Names in MLflow."""

    experiment: str = "vilam3"
    """Experiment of the runs."""
    registered_model: str = "vila-m3"
    """Name of the registered model."""

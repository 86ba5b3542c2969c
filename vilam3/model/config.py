"""What a network is: sizes and facts of its configuration files; knows no tensors.

The published layout keeps four files: the root ``config.json`` and one in each of ``llm/``, ``vision_tower/`` and
``mm_projector/``. Keys and values: NVlabs/VILA 355fda9 (llava/model/configuration_llava.py, llava_arch.py) and the
VILA 1.5 repositories; for NVILA the same files at b760c34; for the tower of the 40B model
llava/model/multimodal_encoder/intern.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from typing import Any, ClassVar, Literal, get_args

from vilam3.data.sample import Dialect
from vilam3.errors import CheckpointError
from vilam3.model.families import AdapterConfig

Preset = Literal[
    "tiny",
    "3b",
    "8b",
    "13b",
    "40b",
    "nvila-tiny",
    "nvila-8b",
    "nvila-video-8b",
    "nvila-lite-2b",
    "nvila-lite-8b",
    "nvila-lite-15b",
]
TemplateName = Literal["v1", "vicuna_v1", "llama_3", "hermes-2", "qwen2", "plain"]
LlmFamily = Literal["llama", "qwen2"]
ProjectorKind = Literal["mlp_downsample", "mlp_downsample_2x2_fix", "mlp_downsample_3x3_fix"]
ImageOrder = Literal["column", "row"]
MERGES: dict[ProjectorKind, int] = {  # patches along a side that become one token
    "mlp_downsample": 2,
    "mlp_downsample_2x2_fix": 2,
    "mlp_downsample_3x3_fix": 3,
}
OWN_KEY = "vilam3"
IMAGE_TOKEN_ID = -200  # stands for an image among token ids
IGNORED_LABEL = -100  # a position that is not learnt


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """SigLIP, under the names of its own config.json; `vision_use_head` says whether a pooling head is stored."""

    model_type: ClassVar[str] = "siglip_vision_model"
    architecture: ClassVar[str] = "SiglipVisionModel"
    select_feature: ClassVar[str] = "cls_patch"  # every token is kept: there is no class token
    mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    image_size: int = 384
    patch_size: int = 14
    num_channels: int = 3
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu_pytorch_tanh"
    attention_dropout: float = 0.0
    vision_use_head: bool = True

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    def as_json(self) -> dict[str, Any]:
        """Its own part of config.json; the head is named where there is none, as its published files do."""
        values = {key.name: getattr(self, key.name) for key in fields(self)}
        return {key: value for key, value in values.items() if key != "vision_use_head" or not value}


@dataclass(frozen=True, slots=True, kw_only=True)
class InternVisionConfig:
    """InternViT, under the names of its own config.json; the defaults are those of InternViT-6B-448px-V1-2."""

    model_type: ClassVar[str] = "intern_vit_6b"
    architecture: ClassVar[str] = "InternVisionModel"
    select_feature: ClassVar[str] = "patch"  # the class token is dropped
    mean: ClassVar[tuple[float, float, float]] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, float, float]] = (0.229, 0.224, 0.225)

    hidden_size: int = 3200
    intermediate_size: int = 12800
    num_hidden_layers: int = 45
    num_attention_heads: int = 25
    image_size: int = 448
    patch_size: int = 14
    num_channels: int = 3
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu"
    attention_dropout: float = 0.0
    qkv_bias: bool = False
    qk_normalization: bool = True
    initializer_factor: float = 0.1
    initializer_range: float = 0.02

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    def as_json(self) -> dict[str, Any]:
        """Its own part of config.json."""
        return {key.name: getattr(self, key.name) for key in fields(self)}


TowerConfig = VisionConfig | InternVisionConfig
TOWERS: dict[str, type[VisionConfig] | type[InternVisionConfig]] = {
    kind.model_type: kind for kind in (VisionConfig, InternVisionConfig)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmConfig:
    """Llama or Qwen2, under the names of its own config.json; `family` is its ``model_type``."""

    family: LlmFamily = "llama"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    rms_norm_eps: float = 1e-5
    hidden_act: str = "silu"
    attention_bias: bool = False
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    tokenizer_model_max_length: int = 4096
    initializer_range: float = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class VilaConfig:
    """One network and how it is to be spoken to.

    Attributes:
        vision: The vision tower.
        llm: The language model.
        select_layer: Which entry of the tower's hidden states is used.
        projector: How patches become tokens.
        image_order: How the tokens of an image follow each other: VILA 1.5 goes down the columns, NVILA along the rows.
        scales: How many scales of a picture the projector reads side by side. A picture taken whole has one, which
            stands for all, as in NVILA's code where a prompt has several pictures.
        image_end: Text that follows every image of its own accord; NVILA's code puts a line break there.
        model_dtype: Type the weights are stored in, as ``torch.bfloat16``.
        template: Conversation template, or None where the published layout does not say.
        prompt_dialect: Wording of the expert protocol the weights were trained in.
        adapters: Beside the language model's matrices; None where there are none.
    """

    vision: TowerConfig = field(default_factory=VisionConfig)
    llm: LlmConfig
    select_layer: int = -2
    projector: ProjectorKind = "mlp_downsample"
    image_order: ImageOrder = "column"
    scales: int = 1
    image_end: str = ""
    model_dtype: str = "torch.bfloat16"
    template: TemplateName | None = None
    prompt_dialect: Dialect = "demo"
    adapters: AdapterConfig | None = None

    @property
    def tokens_per_image(self) -> int:
        """Language-model positions one image takes: the patch grid padded and merged block by block."""
        return (-(-self.vision.grid // self.merge)) ** 2

    @property
    def merge(self) -> int:
        """Patches along the side of a block that becomes one token."""
        return MERGES[self.projector]

    @property
    def read_size(self) -> int:
        """Width of a patch as the projector reads it, all scales beside each other."""
        return self.vision.hidden_size * self.scales

    @property
    def merged_size(self) -> int:
        """Width of one merged vision token."""
        return self.read_size * self.merge**2

    @property
    def max_tokens(self) -> int:
        """Longest sequence, image positions included, that is fed to the language model."""
        return min(self.llm.tokenizer_model_max_length, self.llm.max_position_embeddings)

    @classmethod
    def preset(cls, name: Preset) -> "VilaConfig":
        """A published size, or a tiny network of the same shape that two cores can train; see ``presets.toml``."""
        text = resources.files("vilam3.model").joinpath("presets.toml").read_text(encoding="utf-8")
        tables = tomllib.loads(text)
        if name not in tables:
            raise CheckpointError(f"model preset {name!r}: unknown; use one of {', '.join(tables)}")
        table = tables[name]
        vision = table.pop("vision", {})
        tower = TOWERS[vision.pop("model_type", VisionConfig.model_type)]
        return cls(vision=tower(**vision), llm=LlmConfig(**table.pop("llm")), **table)

    def with_vocabulary(self, size: int, *, bos: int | None, eos: int | None, pad: int | None) -> "VilaConfig":
        """The same network for a tokenizer of `size` entries with these special ids."""
        return replace(
            self, llm=replace(self.llm, vocab_size=size, bos_token_id=bos, eos_token_id=eos, pad_token_id=pad)
        )

    def root_json(self) -> dict[str, Any]:
        """The root config.json: the published keys, and our own under one optional key."""
        own: dict[str, Any] = {"prompt_dialect": self.prompt_dialect, "template": self.template}
        if (self.llm.family, self.image_order) != ("llama", "column"):
            own["image_order"] = self.image_order
        later = self._later_json() if self.image_order == "row" else {}
        return {
            "architectures": ["LlavaLlamaModel"],
            "model_type": "llava_llama",
            "llm_cfg": self.llm_json(),
            "vision_tower_cfg": self.vision_json(),
            "mm_projector_cfg": self.projector_json(),
            "hidden_size": self.llm.hidden_size,
            "mm_hidden_size": self.read_size,
            "mm_vision_select_feature": self.vision.select_feature,
            "mm_vision_select_layer": self.select_layer,
            "model_dtype": self.model_dtype,
            **_FIXED_ROOT_KEYS,
            **later,
            OWN_KEY: own,
        }

    def _later_json(self) -> dict[str, Any]:
        """What the published code writes since NVILA; it puts a line break behind images unless told otherwise."""
        ends = {} if self.image_end == LINE_BREAK else {"end_tokens": self.image_end or None}
        side = self.vision.image_size
        scales = {"s2_scales": ",".join(str(side * scale) for scale in range(1, self.scales + 1))}
        return {
            "chat_template": "qwen2" if self.template == "qwen2" else None,
            "dynamic_s2": self.scales > 1,
            "image_encoder": {"_target_": IMAGE_ENCODER, **ends},
            "transformers_version": "4.46.0",
            **(scales if self.scales > 1 else {}),
        }

    def llm_json(self) -> dict[str, Any]:
        """llm/config.json."""
        values = {key.name: getattr(self.llm, key.name) for key in fields(LlmConfig)}
        family = values.pop("family")
        if family == "qwen2":
            del values["attention_bias"]  # Qwen2 has biases at queries, keys and values always, elsewhere never
        return {
            "architectures": [_LLM_ARCHITECTURES[self.llm.family]],
            "model_type": family,
            **values,
            "model_max_length": self.llm.tokenizer_model_max_length,
            "tokenizer_padding_side": "right",
            **({"pretraining_tp": 1} if family == "llama" else {"use_sliding_window": False}),
            "use_cache": True,
            "torch_dtype": self.model_dtype.removeprefix("torch."),
        }

    def vision_json(self) -> dict[str, Any]:
        """vision_tower/config.json."""
        return {
            "architectures": [self.vision.architecture],
            "model_type": self.vision.model_type,
            **self.vision.as_json(),
            "torch_dtype": self.model_dtype.removeprefix("torch."),
        }

    def projector_json(self) -> dict[str, Any]:
        """mm_projector/config.json."""
        return {
            "architectures": ["MultimodalProjector"],
            "model_type": "v2l_projector",
            "mm_projector_type": self.projector,
            "torch_dtype": self.model_dtype.removeprefix("torch."),
        }


_LLM_ARCHITECTURES: dict[LlmFamily, str] = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
IMAGE_ENCODER = "llava.model.encoders.BasicImageEncoder"
LINE_BREAK = "\n"
# Written by the published training code and of no effect on the mathematics.
_FIXED_ROOT_KEYS: dict[str, Any] = {
    "drop_path_rate": 0.0,
    "fps": 0.0,
    "image_aspect_ratio": "resize",
    "interpolate_mode": "linear",
    "mm_projector_lr": None,
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "num_video_frames": 8,
    "s2": False,
    "s2_max_split_size": 336,
    "s2_scales": "336,672,1008",
    "transformers_version": "4.37.2",
    "tune_language_model": True,
    "tune_mm_projector": True,
    "tune_vision_tower": True,
    "vision_resolution": -1,
}


def template_name(name: str) -> TemplateName:
    """Check a template's name.

    Raises:
        CheckpointError: there is no such template.
    """
    known: tuple[TemplateName, ...] = get_args(TemplateName)
    for candidate in known:
        if candidate == name:
            return candidate
    raise CheckpointError(f"template {name!r}: unknown; use one of {', '.join(known)}")

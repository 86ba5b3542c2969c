"""What a VILA-M3 network is: sizes and facts of its configuration files; knows no tensors.

The published layout keeps four files: the root ``config.json`` and one in each of ``llm/``, ``vision_tower/`` and
``mm_projector/``. Keys and values: NVlabs/VILA 355fda9 (llava/model/configuration_llava.py, llava_arch.py) and the
VILA 1.5 repositories. The 40B variant is left out on purpose: its vision tower is InternViT-6B, not SigLIP, and its
weights were never released.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from vilam3.data.sample import Dialect
from vilam3.errors import CheckpointError

Preset = Literal["tiny", "3b", "8b", "13b"]
TemplateName = Literal["v1", "vicuna_v1", "llama_3", "hermes-2", "plain"]
MERGE = 2  # the projector merges 2x2 patches
OWN_KEY = "vilam3"
IMAGE_TOKEN_ID = -200  # stands for an image among token ids
IGNORED_LABEL = -100  # a position that is not learnt


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """SigLIP, under the names of its own config.json."""

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

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmConfig:
    """Llama, under the names of its own config.json."""

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
        model_dtype: Type the weights are stored in, as ``torch.bfloat16``.
        template: Conversation template, or None where the published layout does not say.
        prompt_dialect: Wording of the expert protocol the weights were trained in.
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    llm: LlmConfig
    select_layer: int = -2
    model_dtype: str = "torch.bfloat16"
    template: TemplateName | None = None
    prompt_dialect: Dialect = "demo"

    @property
    def tokens_per_image(self) -> int:
        """Language-model positions one image takes: the patch grid padded to even and merged 2x2."""
        return (-(-self.vision.grid // MERGE)) ** 2

    @property
    def merged_size(self) -> int:
        """Width of one merged vision token."""
        return self.vision.hidden_size * MERGE * MERGE

    @property
    def max_tokens(self) -> int:
        """Longest sequence, image positions included, that is fed to the language model."""
        return min(self.llm.tokenizer_model_max_length, self.llm.max_position_embeddings)

    @classmethod
    def preset(cls, name: Preset) -> "VilaConfig":
        """A published size, or `tiny`: a model small enough to train on two cores, with an odd patch grid."""
        if name not in PRESETS:
            raise CheckpointError(f"model preset {name!r}: unknown; use one of {', '.join(PRESETS)}")
        return PRESETS[name]

    def with_vocabulary(self, size: int, *, bos: int | None, eos: int | None, pad: int | None) -> "VilaConfig":
        """The same network for a tokenizer of `size` entries with these special ids."""
        return replace(
            self, llm=replace(self.llm, vocab_size=size, bos_token_id=bos, eos_token_id=eos, pad_token_id=pad)
        )

    def root_json(self) -> dict[str, Any]:
        """The root config.json: the published keys, and our own under one optional key."""
        return {
            "architectures": ["LlavaLlamaModel"],
            "model_type": "llava_llama",
            "llm_cfg": self.llm_json(),
            "vision_tower_cfg": self.vision_json(),
            "mm_projector_cfg": self.projector_json(),
            "hidden_size": self.llm.hidden_size,
            "mm_hidden_size": self.vision.hidden_size,
            "mm_vision_select_layer": self.select_layer,
            "model_dtype": self.model_dtype,
            **_FIXED_ROOT_KEYS,
            OWN_KEY: {"prompt_dialect": self.prompt_dialect, "template": self.template},
        }

    def llm_json(self) -> dict[str, Any]:
        """llm/config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **{key.name: getattr(self.llm, key.name) for key in fields(LlmConfig)},
            "model_max_length": self.llm.tokenizer_model_max_length,
            "tokenizer_padding_side": "right",
            "pretraining_tp": 1,
            "use_cache": True,
            "torch_dtype": self.model_dtype.removeprefix("torch."),
        }

    def vision_json(self) -> dict[str, Any]:
        """vision_tower/config.json."""
        return {
            "architectures": ["SiglipVisionModel"],
            "model_type": "siglip_vision_model",
            **{key.name: getattr(self.vision, key.name) for key in fields(VisionConfig)},
            "torch_dtype": self.model_dtype.removeprefix("torch."),
        }

    def projector_json(self) -> dict[str, Any]:
        """mm_projector/config.json."""
        return {
            "architectures": ["MultimodalProjector"],
            "model_type": "v2l_projector",
            "mm_projector_type": "mlp_downsample",
            "torch_dtype": self.model_dtype.removeprefix("torch."),
        }


# Written by the published training code and of no effect on the mathematics.
_FIXED_ROOT_KEYS: dict[str, Any] = {
    "drop_path_rate": 0.0,
    "fps": 0.0,
    "image_aspect_ratio": "resize",
    "interpolate_mode": "linear",
    "mm_projector_lr": None,
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "cls_patch",
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


def _vicuna(**sizes: int) -> VilaConfig:
    llm = LlmConfig(
        vocab_size=32000,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **sizes,  # type: ignore[arg-type]  # all of them are int fields
    )
    return VilaConfig(llm=llm, template="v1")


PRESETS: dict[str, VilaConfig] = {
    "tiny": VilaConfig(
        vision=VisionConfig(
            hidden_size=96, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, image_size=126
        ),
        llm=LlmConfig(
            vocab_size=2048,
            hidden_size=160,
            intermediate_size=480,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tokenizer_model_max_length=2048,
            initializer_range=0.06,  # 0.02 suits widths of thousands; at this one attention would stay even for long
        ),
        model_dtype="torch.float32",
        template="llama_3",
        prompt_dialect="training",
    ),
    "3b": _vicuna(
        hidden_size=2560, num_hidden_layers=32, num_attention_heads=20, num_key_value_heads=20, intermediate_size=6912
    ),
    "8b": VilaConfig(
        llm=LlmConfig(
            vocab_size=128257,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=8192,
            rope_theta=500000.0,
            bos_token_id=128000,
            eos_token_id=128001,
            pad_token_id=128256,
        ),
        template="llama_3",
    ),
    "13b": _vicuna(
        hidden_size=5120, num_hidden_layers=40, num_attention_heads=40, num_key_value_heads=40, intermediate_size=13824
    ),
}

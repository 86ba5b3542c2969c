"""The four published configuration files, read and checked.

What they may ask for and this model does not have (tiling, other projectors, other towers) is refused here by name, so
that the network never runs with mathematics it was not trained with.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

from vilam3.data.sample import Dialect
from vilam3.errors import CheckpointError
from vilam3.model.config import OWN_KEY, LlmConfig, VilaConfig, VisionConfig, template_name

# What these must say for our mathematics to hold, where the file says anything.
_REQUIRED_ROOT_VALUES: dict[str, Any] = {
    "image_aspect_ratio": "resize",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "cls_patch",
    "s2": False,
    "vision_resolution": -1,
}


def parse_config(
    root: Mapping[str, Any], llm: Mapping[str, Any], vision: Mapping[str, Any], projector: Mapping[str, Any]
) -> VilaConfig:
    """Build the configuration from the four published files.

    Raises:
        CheckpointError: a key is missing or asks for mathematics that this model does not have.
    """
    for key, wanted in _REQUIRED_ROOT_VALUES.items():
        if root.get(key, wanted) != wanted:
            raise CheckpointError(f"config.json {key}={root[key]!r}: only {wanted!r} is supported by this model")
    kind = projector.get("mm_projector_type", "mlp_downsample")
    if kind != "mlp_downsample":
        raise CheckpointError(
            f"mm_projector/config.json mm_projector_type={kind!r}: only 'mlp_downsample' is supported"
        )
    own = root.get(OWN_KEY) or {}
    if not isinstance(own, Mapping):
        raise CheckpointError(f"config.json {OWN_KEY}={own!r}: must be an object")
    vision_config = _vision(vision)
    return VilaConfig(
        vision=vision_config,
        llm=_llm(llm),
        select_layer=_select_layer(root.get("mm_vision_select_layer", -2), layers=vision_config.num_hidden_layers),
        model_dtype=root.get("model_dtype", "torch.float16"),
        template=template_name(own["template"]) if own.get("template") else None,
        prompt_dialect=_dialect(own.get("prompt_dialect", "demo")),
    )


def _select_layer(value: object, *, layers: int) -> int:
    if not isinstance(value, int) or not -layers - 1 <= value < 0:
        raise CheckpointError(
            f"config.json mm_vision_select_layer={value!r}: must count from the end of {layers} layers; published is -2"
        )
    return value


def _dialect(name: object) -> Dialect:
    known: tuple[Dialect, ...] = get_args(Dialect)
    for candidate in known:
        if candidate == name:
            return candidate
    raise CheckpointError(f"config.json {OWN_KEY}.prompt_dialect={name!r}: unknown; use one of {', '.join(known)}")


def _vision(raw: Mapping[str, Any]) -> VisionConfig:
    if raw.get("model_type", "siglip_vision_model") != "siglip_vision_model":
        raise CheckpointError(f"vision_tower/config.json model_type={raw['model_type']!r}: only SigLIP is supported")
    vision = VisionConfig(**_known(raw, VisionConfig))
    _check_sizes("vision_tower", vision)
    return vision


def _llm(raw: Mapping[str, Any]) -> LlmConfig:
    if raw.get("model_type", "llama") != "llama":
        raise CheckpointError(f"llm/config.json model_type={raw['model_type']!r}: only 'llama' is supported")
    values = _known(raw, LlmConfig)
    values.setdefault("tokenizer_model_max_length", raw.get("model_max_length") or 4096)
    values.setdefault("num_key_value_heads", values.get("num_attention_heads"))
    _adopt_rope_parameters(values, raw.get("rope_parameters"))
    missing = [name for name in _LLM_REQUIRED if values.get(name) is None]
    if missing:
        raise CheckpointError(f"llm/config.json: lacks {', '.join(missing)}; take the file from the published folder")
    llm = LlmConfig(**values)
    _check_sizes("llm", llm)
    if llm.num_attention_heads % llm.num_key_value_heads:
        raise CheckpointError(
            f"llm/config.json num_attention_heads={llm.num_attention_heads}: not a multiple of "
            f"num_key_value_heads={llm.num_key_value_heads}; copy the file again"
        )
    return llm


def _check_sizes(folder: str, section: VisionConfig | LlmConfig) -> None:
    for key in fields(section):
        value = getattr(section, key.name)
        if key.type is int and (type(value) is not int or value < 1):
            raise CheckpointError(f"{folder}/config.json {key.name}={value!r}: must be a positive whole number")
        if key.type is float and (type(value) not in {int, float} or value < 0):
            raise CheckpointError(f"{folder}/config.json {key.name}={value!r}: must be a number, zero or more")
    if section.hidden_size % section.num_attention_heads:
        raise CheckpointError(
            f"{folder}/config.json hidden_size={section.hidden_size}: not a multiple of "
            f"num_attention_heads={section.num_attention_heads}; copy the file again"
        )


_LLM_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)


def _adopt_rope_parameters(values: dict[str, Any], parameters: Mapping[str, Any] | None) -> None:
    """Newer transformers write one dict where 4.37 wrote two keys."""
    if not parameters:
        return
    values["rope_theta"] = parameters.get("rope_theta", 10000.0)
    if parameters.get("rope_type", "default") != "default":
        values["rope_scaling"] = {key: value for key, value in parameters.items() if key != "rope_theta"}


def _known(raw: Mapping[str, Any], kind: type) -> dict[str, Any]:
    names = {key.name for key in fields(kind)}
    return {key: value for key, value in raw.items() if key in names}

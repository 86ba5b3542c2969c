"""The four published configuration files, read and checked.

What they may ask for and this model does not have (tiling, other projectors, other towers) is refused here by name, so
that the network never runs with mathematics it was not trained with. What they leave open is not guessed: whoever knows
it states it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from vilam3.data.sample import Dialect
from vilam3.errors import CheckpointError
from vilam3.model.config import (
    IMAGE_ENCODER,
    LINE_BREAK,
    OWN_KEY,
    TOWERS,
    ImageOrder,
    InternVisionConfig,
    LlmConfig,
    LlmFamily,
    ProjectorKind,
    TowerConfig,
    VilaConfig,
    VisionConfig,
    template_name,
)

# What these must say for our mathematics to hold, where the file says anything.
_REQUIRED_ROOT_VALUES: dict[str, Any] = {
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "ps3": False,
    "s2": False,
    "vision_resolution": -1,
}
# Written by the published code since the release of NVILA (NVlabs/VILA 36f6adc), never before.
_LATER_ROOT_KEYS = frozenset({"image_encoder", "video_encoder", "dynamic_s2", "min_tiles", "max_tiles"})
_SAVED_OPEN = ("s2", "ps3")  # left empty by the published code where it has no use for them


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What is known of a checkpoint that its files leave open; None leaves it to them.

    Attributes:
        image_order: How the tokens of an image follow each other.
        images: Take every picture as a whole, whatever the file says of tiles.
        template: Conversation template.
    """

    image_order: ImageOrder | None = None
    images: Literal["resize"] | None = None
    template: str | None = None


NOTHING_STATED = Stated()


def parse_config(
    root: Mapping[str, Any],
    llm: Mapping[str, Any],
    vision: Mapping[str, Any],
    projector: Mapping[str, Any],
    *,
    stated: Stated = NOTHING_STATED,
) -> VilaConfig:
    """Build the configuration from the four published files.

    Args:
        root: The root ``config.json``.
        llm: Of ``llm/``.
        vision: Of ``vision_tower/``.
        projector: Of ``mm_projector/``.
        stated: What the user knows beyond them.

    Raises:
        CheckpointError: a key is missing, asks for mathematics that this model does not have, or leaves them open.
    """
    own = root.get(OWN_KEY) or {}
    if not isinstance(own, Mapping):
        raise CheckpointError(f"config.json {OWN_KEY}={own!r}: must be an object")
    _check_root(root)
    _check_pictures(root, stated)
    tower, llm_config = _vision(vision), _llm(llm)
    _check_feature(root, tower)
    kind, scales = _projector(projector), _scales(root)
    order = _image_order(root, own, stated, kind=kind, family=llm_config.family)
    template = stated.template or own.get("template")
    return VilaConfig(
        vision=tower,
        llm=llm_config,
        select_layer=_select_layer(root.get("mm_vision_select_layer", -2), layers=tower.num_hidden_layers),
        projector=kind,
        image_order=order,
        scales=scales,
        image_end=_image_end(root.get("image_encoder")) if order == "row" else "",
        model_dtype=root.get("model_dtype", "torch.float16"),
        template=template_name(template) if template else None,
        prompt_dialect=_dialect(own.get("prompt_dialect", "demo")),
    )


def _check_root(root: Mapping[str, Any]) -> None:
    for key, wanted in _REQUIRED_ROOT_VALUES.items():
        found = root.get(key, wanted)
        if found != wanted and not (found is None and key in _SAVED_OPEN):
            raise CheckpointError(f"config.json {key}={found!r}: only {wanted!r} is supported by this model")


def _check_pictures(root: Mapping[str, Any], stated: Stated) -> None:
    mode = stated.images or root.get("image_aspect_ratio", "resize")
    if mode in {"dynamic", "dynamic_s2"}:
        raise CheckpointError(
            f"config.json image_aspect_ratio={mode!r}: tiles are not supported; to take each picture whole, as the "
            "published code does where a prompt has several, write it anew by `vilam3 model convert DIR --out NEW "
            "--images resize`"
        )
    if mode != "resize":
        raise CheckpointError(f"config.json image_aspect_ratio={mode!r}: only 'resize' is supported by this model")


def _scales(root: Mapping[str, Any]) -> int:
    """How many scales the projector reads; the published code writes their sides as text or as a list."""
    if not root.get("dynamic_s2"):
        return 1
    sides = root.get("s2_scales")
    listed = sides.split(",") if isinstance(sides, str) else sides
    if not isinstance(listed, list) or not listed or not all(str(side).strip().isdigit() for side in listed):
        raise CheckpointError(f"config.json s2_scales={sides!r}: must list the sides of dynamic_s2, as 448,896,1344")
    return len(listed)


def _check_feature(root: Mapping[str, Any], tower: TowerConfig) -> None:
    wanted = tower.select_feature
    if root.get("mm_vision_select_feature", wanted) != wanted:
        raise CheckpointError(
            f"config.json mm_vision_select_feature={root['mm_vision_select_feature']!r}: only {wanted!r} is supported "
            f"with a tower of type {tower.model_type}"
        )


def _projector(raw: Mapping[str, Any]) -> ProjectorKind:
    kind = raw.get("mm_projector_type", "mlp_downsample")
    known: tuple[ProjectorKind, ...] = get_args(ProjectorKind)
    for candidate in known:
        if candidate == kind:
            return candidate
    raise CheckpointError(
        f"mm_projector/config.json mm_projector_type={kind!r}: only {', '.join(map(repr, known))} are supported"
    )


def _image_order(
    root: Mapping[str, Any], own: Mapping[str, Any], stated: Stated, *, kind: ProjectorKind, family: LlmFamily
) -> ImageOrder:
    """As stated, or as the files prove; the name ``mlp_downsample`` stands for both orders."""
    said = stated.image_order or own.get("image_order")
    if said not in (None, *get_args(ImageOrder)):
        raise CheckpointError(f"config.json {OWN_KEY}.image_order={said!r}: unknown; use column or row")
    if kind != "mlp_downsample":  # these blocks came with NVILA and know rows alone
        if said == "column":
            raise CheckpointError(
                f"image order 'column': {kind} puts tokens in rows; leave the order to the checkpoint"
            )
        return "row"
    if said is not None:
        return "column" if said == "column" else "row"
    is_later, is_llama = not _LATER_ROOT_KEYS.isdisjoint(root), family == "llama"
    if is_later != is_llama:  # Qwen2 came with NVILA; a Llama in a file of that time may be either
        return "row" if is_later else "column"
    found = "has" if is_later else "lacks"
    raise CheckpointError(
        f"config.json: mlp_downsample puts an image's tokens in columns in VILA 1.5 and in rows since NVILA, and a "
        f"{family} language model in a file that {found} NVILA's keys does not tell which; state it by "
        "`vilam3 model convert DIR --out NEW --image-order column` or `row`"
    )


def _image_end(encoder: object) -> str:
    """The text that the published code puts behind every image, as its description of the encoder says."""
    try:
        described = json.loads(encoder) if isinstance(encoder, str) else encoder or {"_target_": IMAGE_ENCODER}
    except ValueError as error:
        raise CheckpointError(f"config.json image_encoder={encoder!r}: not readable as JSON ({error})") from error
    if isinstance(described, Mapping) and described.get("_target_") == IMAGE_ENCODER:
        end = described.get("end_tokens", LINE_BREAK) or ""
        if isinstance(end, str) and not described.get("start_tokens"):
            return end
    raise CheckpointError(
        f"config.json image_encoder={encoder!r}: only {IMAGE_ENCODER} with a text for end_tokens and none for "
        "start_tokens is supported"
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


def _vision(raw: Mapping[str, Any]) -> TowerConfig:
    kind = TOWERS.get(str(raw.get("model_type", VisionConfig.model_type)))
    if kind is None:
        raise CheckpointError(
            f"vision_tower/config.json model_type={raw['model_type']!r}: only SigLIP ({VisionConfig.model_type}) and "
            f"InternViT ({InternVisionConfig.model_type}) are supported"
        )
    vision = kind(**_known(raw, kind))
    _check_sizes("vision_tower", vision)
    if isinstance(vision, InternVisionConfig) and vision.hidden_act != "gelu":
        raise CheckpointError(f"vision_tower/config.json hidden_act={vision.hidden_act!r}: only 'gelu' is supported")
    return vision


def _llm(raw: Mapping[str, Any]) -> LlmConfig:
    family = raw.get("model_type", "llama")
    if family not in get_args(LlmFamily):
        known = " and ".join(map(repr, get_args(LlmFamily)))
        raise CheckpointError(f"llm/config.json model_type={family!r}: only {known} are supported")
    if raw.get("use_sliding_window"):
        raise CheckpointError("llm/config.json use_sliding_window=true: only attention over everything is supported")
    values = {**_known(raw, LlmConfig), "family": family}
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


def _check_sizes(folder: str, section: TowerConfig | LlmConfig) -> None:
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

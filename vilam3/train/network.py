"""The network a recipe describes; knows no tensors, so that a plan needs none."""

from dataclasses import replace

from vilam3.model.config import VilaConfig
from vilam3.settings import ModelSettings


def network_config(settings: ModelSettings) -> VilaConfig:
    """The preset with the recipe's overrides; who asks for more positions gets to use them."""
    preset = VilaConfig.preset(settings.preset)
    overrides = settings.llm.model_dump(exclude_none=True)
    longest = max(preset.llm.tokenizer_model_max_length, overrides.get("max_position_embeddings", 0))
    return replace(
        preset,
        llm=replace(preset.llm, **overrides, tokenizer_model_max_length=longest),
        vision=replace(preset.vision, **settings.vision.model_dump(exclude_none=True)),
        template=settings.template,
        prompt_dialect=settings.dialect,
    )

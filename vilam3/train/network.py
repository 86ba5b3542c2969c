"""The network a recipe describes; knows no tensors, so that a plan needs none."""

from dataclasses import replace

from vilam3.model.config import VilaConfig
from vilam3.settings import ModelSettings


def network_config(settings: ModelSettings) -> VilaConfig:
    """The preset with the recipe's overrides."""
    preset = VilaConfig.preset(settings.preset)
    return replace(
        preset,
        llm=replace(preset.llm, **settings.llm.model_dump(exclude_none=True)),
        vision=replace(preset.vision, **settings.vision.model_dump(exclude_none=True)),
        template=settings.template,
        prompt_dialect=settings.dialect,
    )

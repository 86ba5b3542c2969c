"""A recipe as the TOML that the command line reads."""

import json
from collections.abc import Mapping
from pathlib import Path

from vilam3.recipe import Recipe


def write_toml(recipe: Recipe, path: Path) -> None:
    """What is absent stays absent: TOML has no null."""
    values = recipe.model_dump(mode="json", exclude_none=True)
    path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in values.items()), encoding="utf-8")


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(below)}" for key, below in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)

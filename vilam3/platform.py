"""The operators an installation builds on, read from ``infra/platform/platform.toml``; talks to no cluster.

The file is written once, for people and programs. The wheel carries it beside this module, a checkout has it in place.
"""

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import Field

from vilam3.errors import NotFoundError
from vilam3.settings import Settings

FILE = "platform.toml"
Kind = Annotated[str, Field(pattern=r"^[a-z0-9.-]+/v[0-9a-z]+/[A-Z][A-Za-z]+$")]


class Operator(Settings):
    """One operator."""

    name: str
    """As ``--need`` names it."""
    version: str
    """The version that this release was made for."""
    purpose: Annotated[str, Field(alias="for")]
    """What an installation needs it for."""
    deployment: str
    """Name of its controller's Deployment, in whichever namespace."""
    kinds: tuple[Kind, ...]
    """Kinds that it serves, as ``group/version/Kind``."""
    fields: Mapping[Kind, tuple[str, ...]] = {}
    """What the specification of a kind has, that of older versions has not."""
    install: str
    """The command that installs this version."""


class Platform(Settings):
    """Everything below an installation."""

    kubernetes: Annotated[str, Field(pattern=r"^1\.[0-9]+$")]
    """The lowest minor version of Kubernetes."""
    operators: tuple[Operator, ...]
    """In the order of their installation."""

    def operator(self, name: str) -> Operator:
        """One operator.

        Raises:
            NotFoundError: there is none of that name.
        """
        found = next((one for one in self.operators if one.name == name), None)
        if found is None:
            known = ", ".join(one.name for one in self.operators)
            raise NotFoundError(f"operator {name}: not one of the platform's; there are {known}")
        return found


def load() -> Platform:
    """Read the file of this release."""
    packaged = resources.files("vilam3") / FILE
    source = packaged if packaged.is_file() else Path(__file__).parents[1] / "infra" / "platform" / FILE
    return Platform.model_validate(tomllib.loads(source.read_text(encoding="utf-8")))

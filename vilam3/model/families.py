"""Which adapters a checkpoint has beside its published matrices, and for which questions; knows no tensors.

A family is a kind of task, such as answering or reporting, that was trained with adapters of its own. Who asks names a
family, or a data set that it was trained on, or a task that counts to it; who names nothing gets the default.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from vilam3.errors import CheckpointError, DataError

ADAPTERS = "adapters"  # folder beside the three published ones
CONFIG = "config.json"
KIND = "task_gated_low_rank"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """Task-gated adapters.

    Attributes:
        families: By their names, with the data sets that each was trained on and the tasks that count to it.
        default: Family of questions that name none.
        experts: Products of each family at each matrix, among which a router divides every token.
        rank: Of each product.
        alpha: Weight of the products, divided by their rank.
    """

    families: Mapping[str, tuple[str, ...]]
    default: str
    experts: int
    rank: int
    alpha: float

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        """Check what a file may get wrong."""
        if self.default not in self.families:
            raise ValueError(f"default={self.default!r}: is none of the families {', '.join(self.families)}")
        if min(self.experts, self.rank) < 1 or not self.alpha > 0:
            raise ValueError("experts, rank and alpha: must be more than zero")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the families, in the order in which their weights lie."""
        return tuple(sorted(self.families))

    @property
    def scale(self) -> float:
        """Of every product."""
        return self.alpha / self.rank

    def family_of(self, task: str) -> str | None:
        """The family of this name, or to which this name counts; None where there is none."""
        if task in self.families:
            return task
        return next((name for name in self.names if task in self.families[name]), None)

    def number_of(self, task: str) -> int:
        """The number of a family among `names`; empty means the default.

        Raises:
            DataError: no family has this name.
        """
        family = self.family_of(task) if task else self.default
        if family is None:
            raise DataError(f"task {task!r}: this model has adapters for {', '.join(self.names)}; name one, or none")
        return self.names.index(family)

    def to_json(self) -> dict[str, Any]:
        """For ``adapters/config.json``."""
        return {"adapter_type": KIND, **asdict(self), "families": {name: self.families[name] for name in self.names}}


def read_adapters(checkpoint: Path) -> AdapterConfig | None:
    """The adapters of a checkpoint; None where it has none.

    Raises:
        CheckpointError: their configuration is missing, damaged, or of another kind.
    """
    folder = checkpoint / ADAPTERS
    if not folder.is_dir():
        return None
    file = folder / CONFIG
    try:
        values = json.loads(file.read_bytes())
        kind = values.pop("adapter_type", None)
        if kind != KIND:
            raise CheckpointError(f"{file} adapter_type={kind!r}: only {KIND!r} is supported; merge them elsewhere")
        return TypeAdapter(AdapterConfig).validate_python(values)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: is missing; copy it from the checkpoint") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise CheckpointError(f"{file} {where}: {first['msg']}; copy the file again") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: not readable as a JSON object ({error}); copy it again") from error


def refuse_adapters(checkpoint: Path, *, engine: str) -> None:
    """For engines that run the published matrices alone.

    Raises:
        CheckpointError: the checkpoint has adapters.
    """
    if (config := read_adapters(checkpoint)) is not None:
        raise CheckpointError(
            f"{checkpoint}: has task adapters ({', '.join(config.names)}), which engine {engine} does not run; "
            "serve it with the engine torch, or, where families have one expert each, make one part of it by "
            "vilam3 model merge"
        )

"""What a checkpoint is, from its configuration and file headers alone; no weight is read."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vilam3.model.checkpoint import (
    LICENCES,
    PARTS,
    Layout,
    choose_template,
    compare,
    empty,
    layout_of,
    read_config,
    survey,
)
from vilam3.model.config import VilaConfig
from vilam3.model.digests import verify_digests
from vilam3.model.gated import GATED
from vilam3.model.shards import Stored
from vilam3.model.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Facts about one checkpoint; `parameters` has ``adapters`` too where there are any.

    Attributes:
        path: Its directory.
        layout: Which layout it has.
        config: Its configuration.
        template: Conversation template it would be used with.
        tokenizer_size: Entries of its tokenizer.
        parameters: Stored parameters by part, and ``total``.
        num_bytes: Size of the weights.
        dtypes: Number of tensors of each stored type.
        num_files: Weight files.
        missing: Tensors the network needs and the files lack.
        unexpected: Tensors the network has no place for.
        misshapen: Tensors of another shape than the configuration says, with both.
        licences: Licence files in the directory.
        has_digests: Whether it carries digests; they were compared.
    """

    path: str
    layout: Layout
    config: VilaConfig
    template: str
    tokenizer_size: int
    parameters: Mapping[str, int]
    num_bytes: int
    dtypes: Mapping[str, int]
    num_files: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    licences: tuple[str, ...]
    has_digests: bool

    @property
    def is_usable(self) -> bool:
        """Whether it would load."""
        return not self.missing and not self.misshapen

    def as_json(self) -> dict[str, Any]:
        """The same, with the derived sizes, for printing."""
        return {
            **asdict(self),
            "tokens_per_image": self.config.tokens_per_image,
            "max_tokens": self.config.max_tokens,
            "is_usable": self.is_usable,
        }


def inspect(path: Path, *, verify: bool = True) -> Inspection:
    """Read a checkpoint's headers.

    Args:
        path: Its directory, of either layout.
        verify: Compare digests where there are any.

    Raises:
        CheckpointError: it cannot be read at all; tensors that merely do not match are reported in the result.
    """
    layout = layout_of(path)
    config = read_config(path)
    tokenizer = load_tokenizer(path / "llm" if layout == "folders" else path)
    found = survey(path)
    mismatches = compare(empty(config), found)
    return Inspection(
        path=str(path),
        layout=layout,
        config=config,
        template=choose_template(config, tokenizer).name,
        tokenizer_size=len(tokenizer),
        parameters=_parameters(found),
        num_bytes=sum(stored.num_bytes for stored in found.values()),
        dtypes=dict(Counter(stored.dtype for stored in found.values())),
        num_files=len({stored.file for stored in found.values()}),
        missing=mismatches.missing,
        unexpected=mismatches.unexpected,
        misshapen=tuple(
            f"{stored.name}: {list(stored.shape)} instead of {list(shape)}" for stored, shape in mismatches.misshapen
        ),
        licences=tuple(name for name in LICENCES if "LICENSE" in name and (path / name).is_file()),
        has_digests=verify_digests(path) if verify else False,
    )


def _parameters(found: Mapping[str, Stored]) -> dict[str, int]:
    counts = {
        part: sum(math.prod(stored.shape) for name, stored in found.items() if name.startswith(f"{part}."))
        for part in PARTS
    }
    adapters = sum(math.prod(stored.shape) for name, stored in found.items() if name.endswith(GATED))
    if adapters:
        counts |= {"llm": counts["llm"] - adapters, "adapters": adapters}
    return {**counts, "total": sum(counts.values())}

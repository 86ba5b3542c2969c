"""Which engine runs a checkpoint in this process, and what it may take: our own, or one that a distribution adds.

An engine is added by an entry point of the group ``vilam3.engines``: a function of the checkpoint's directory with the
keywords `slots`, `waiting` and `options`. Heavy libraries are imported when an engine is opened.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vilam3.errors import UserError
from vilam3.model.families import refuse_adapters

if TYPE_CHECKING:
    from vilam3.dialogue.messages import Engine

GROUP = "vilam3.engines"
OWN = "torch"
GIB = 2**30
FEATURE_SHARE = 8  # an eighth of the memory for what is remembered is for pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """An engine and its bounds.

    Attributes:
        kind: ``torch``, or the name of an entry point.
        slots: Replies that are decoded side by side.
        waiting: Requests that may wait besides.
        memory_gib: For what ``torch`` remembers of prompts, replies and pictures; others have options of their own.
        options: Of an engine that was added.
    """

    kind: str = OWN
    slots: int = 16
    waiting: int = 64
    memory_gib: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)


class Opener(Protocol):
    """What an entry point of `GROUP` is."""

    def __call__(self, model: Path, *, slots: int, waiting: int, options: Mapping[str, Any]) -> "Engine":
        """The engine for a checkpoint."""
        ...


def open_engine(model: Path, choice: EngineChoice) -> "Engine":
    """Load a checkpoint into an engine.

    Raises:
        CheckpointError: the checkpoint is damaged, or has task adapters and the engine is not our own.
        UserError: the engine is not installed, or does not know an option.
    """
    if choice.kind == OWN:
        return _own(model, choice)
    for point in entry_points(group=GROUP, name=choice.kind):
        refuse_adapters(model, engine=choice.kind)
        opener: Opener = point.load()
        return opener(model, slots=choice.slots, waiting=choice.waiting, options=choice.options)
    known = ", ".join(sorted({OWN, *entry_points(group=GROUP).names}))
    raise UserError(
        f"engine {choice.kind!r}: not installed here, where there is {known}; vllm is in the image vilam3-vllm, or in "
        "the distribution serving/vllm"
    )


def _own(model: Path, choice: EngineChoice) -> "Engine":
    import torch  # noqa: PLC0415 - torch takes seconds to import

    from vilam3.model.batching.loop import Limits  # noqa: PLC0415 - likewise
    from vilam3.model.checkpoint import load  # noqa: PLC0415 - likewise
    from vilam3.model.engine import TorchEngine  # noqa: PLC0415 - likewise

    if choice.options:
        raise UserError(f"engine {OWN}: has no options, but was given {', '.join(choice.options)}; leave them out")
    # An accelerator computes in the type the weights are stored in; a processor is exact, and often slow in others.
    has_accelerator = torch.cuda.is_available()
    loaded = load(model, dtype=None if has_accelerator else torch.float32, device="cuda" if has_accelerator else "cpu")
    memory_bytes = int(choice.memory_gib * GIB)
    feature_bytes = memory_bytes // FEATURE_SHARE
    limits = Limits(
        slots=choice.slots,
        waiting=choice.waiting,
        prefix_bytes=memory_bytes - feature_bytes,
        feature_bytes=feature_bytes,
    )
    return TorchEngine(loaded, limits=limits)

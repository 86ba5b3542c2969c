"""What the checkpoints of a stage scored when one of them was chosen."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vilam3.artifacts import write_json

CHECKPOINTS = "checkpoints.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What one checkpoint of a stage scored.

    Attributes:
        checkpoint: Name of its folder, that of the stage's own being the last.
        accuracy: With experts, on the validation patients.
        is_chosen: Whether it is the one that is measured and registered.
    """

    checkpoint: str
    accuracy: float
    is_chosen: bool


def write_scores(scores: Sequence[Score], evaluation: Path) -> None:
    """Keep them in the folder of an evaluation."""
    write_json(evaluation / CHECKPOINTS, [asdict(score) for score in scores])


def read_scores(evaluation: Path) -> list[Score]:
    """Of the folder of an evaluation; empty where there was no choice."""
    return [Score(**one) for one in json.loads((evaluation / CHECKPOINTS).read_text(encoding="utf-8"))]

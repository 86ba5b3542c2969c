"""What training tells a tracking store, and what a finished stage leaves behind; knows no MLflow."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vilam3.artifacts import sha256_file, sha256_tree
from vilam3.errors import CheckpointError
from vilam3.train.expense import Expense

STAGE_FILE = "stage.json"
MODELS = "checkpoints"
FINAL = "model"  # folder of a run in S3: the finished stage
FINAL_STEPS = 10  # the final loss is their mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A saved model, as a tracking store should know it.

    Attributes:
        name: Recipe, stage and step, readable.
        step: Optimizer step.
        source: ``file://`` or ``s3://`` URI of the weights.
        digest: Of the weights; the same digest is the same model.
        tags: Digests of recipe and data, and whatever else identifies the model.
        metrics: Numbers measured on it.
    """

    name: str
    step: int
    source: str
    digest: str
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


class Tracker(Protocol):
    """The part of a tracking store that training uses; every call may be repeated without harm."""

    def begin_run(self, name: str, *, key: str, params: Mapping[str, str] | None = None) -> str:
        """Start or take up the run of `key`; returns its id."""
        ...

    def log_series(self, run_id: str, values: Sequence[float], *, name: str = "loss") -> None:
        """Log one value per step, counted from 1."""
        ...

    def log_checkpoint(self, run_id: str, checkpoint: Checkpoint) -> str:
        """Make a checkpoint known, once; returns its id."""
        ...

    def log_numbers(self, run_id: str, numbers: Mapping[str, float], *, step: int = 0) -> None:
        """Log single numbers of the run; the newest of a name stands."""
        ...

    def finish_run(self, run_id: str, *, succeeded: bool) -> None:
        """Close the run."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """A finished stage, as ``stage.json`` beside its weights has it.

    Attributes:
        name: Of the stage.
        recipe: Name of the recipe.
        steps: Optimizer steps.
        samples: Samples seen, repeats counted.
        seconds: Training time, over all processes that worked on it.
        final_loss: Mean loss of the last steps.
        losses: Loss of every step.
        inputs: Digests of everything the weights follow from.
        inputs_digest: Over `inputs`.
        weights_digest: Of the weights.
        settings: Threads and library versions the numbers were made with.
        skipped: Samples that were left out because a picture of theirs cannot be read.
        validated: Step and loss on held-out samples, wherever it was measured.
        best_step: Whose weights these are, where the best on held-out samples were taken; 0: those of the last step.
        expense: What it has cost, by cause; None in records of earlier releases.
        is_reused: True where an earlier run's result was taken over; not stored.
    """

    name: str
    recipe: str
    steps: int
    samples: int
    seconds: float
    final_loss: float
    losses: tuple[float, ...]
    inputs: Mapping[str, str]
    inputs_digest: str
    weights_digest: str
    settings: Mapping[str, str]
    skipped: tuple[str, ...] = ()
    validated: tuple[tuple[int, float], ...] = ()
    best_step: int = 0
    expense: Expense | None = None
    is_reused: bool = False

    @property
    def weights_step(self) -> int:
        """Optimizer step of the weights."""
        return self.best_step or self.steps

    def to_json(self) -> dict[str, Any]:
        """For ``stage.json``."""
        values = asdict(self)
        del values["is_reused"]
        return values


def read_stage(checkpoint: Path) -> StageResult:
    """The record of a finished stage.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = checkpoint / STAGE_FILE
    try:
        return parse_stage(path.read_bytes(), where=str(path))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); give the folder of a finished stage"
        ) from error


def parse_stage(text: bytes, *, where: str) -> StageResult:
    """The record of a finished stage as it was written; `where` is for messages.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        values = json.loads(text)
        return stage_result(values)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{where}: is damaged ({error}); train the stage again") from error


def stage_result(values: Mapping[str, Any]) -> StageResult:
    """The record that `StageResult.to_json` gave."""
    expense = values.get("expense")
    told = {
        "losses": tuple(values["losses"]),
        "skipped": tuple(values.get("skipped", ())),
        "validated": tuple((int(step), float(loss)) for step, loss in values.get("validated", ())),
        "expense": None if expense is None else Expense.from_json(expense),
    }
    return StageResult(**{**values, **told})


def weights_digest(checkpoint: Path) -> str:
    """Names the weights: over the digests a saved checkpoint carries, or over all its files."""
    record = checkpoint / "digests.json"
    return sha256_file(record) if record.is_file() else sha256_tree(checkpoint)


def digest_of(values: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def final_loss(losses: Sequence[float]) -> float:
    """Mean of the last steps' losses."""
    last = losses[-FINAL_STEPS:]
    return sum(last) / len(last)

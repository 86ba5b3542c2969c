"""Checkpoints a training process resumes from: committed in two phases, verified before use, the last two kept.

A checkpoint is written under a temporary name, its manifest with the SHA-256 of every file last, and then renamed. What
has no manifest, or does not match it, does not count.
"""

import io
import json
import logging
import random
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from vilam3.artifacts import sha256_file, whole_directory, write_json
from vilam3.train.validation import Validated

KEPT = 2
MANIFEST = "manifest.json"
STATE = "state.pt"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Learner:
    """What changes while training: the weights that learn, the optimizer and the schedule."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a training run stands.

    Attributes:
        step: Optimizer steps done; the order of samples follows from it, so it is the sampler's state too.
        losses: Loss of each of those steps.
        seconds: Training time spent on them, over all processes.
        skipped: Names of the samples that were left out because a picture of theirs cannot be read.
        validated: Loss on held-out samples, at the steps at which it was measured.
    """

    step: int = 0
    losses: tuple[float, ...] = ()
    seconds: float = 0.0
    skipped: tuple[str, ...] = ()
    validated: tuple[Validated, ...] = ()


def save(folder: Path, learner: Learner, position: Position, *, inputs_digest: str) -> Path:
    """Commit a checkpoint below `folder` and drop all but the newest two."""
    place = folder / f"step-{position.step:08d}"
    with whole_directory(place) as partial:
        _write(_state(learner, position), partial / STATE)
        write_json(
            partial / MANIFEST,
            {"step": position.step, "inputs": inputs_digest, "files": {STATE: sha256_file(partial / STATE)}},
        )
    for old in _checkpoints(folder)[KEPT:]:
        shutil.rmtree(old)
    return place


def resume(folder: Path, learner: Learner, *, inputs_digest: str) -> Position:
    """Load the newest checkpoint that is whole and belongs to these inputs; the start where there is none."""
    sweep(folder)
    for place in _checkpoints(folder):
        if _is_whole(place, inputs_digest):
            return _load(place / STATE, learner)
        log.warning("checkpoint %s is damaged or of another run; going back to the one before", place.name)
        shutil.rmtree(place)
    return Position()


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for orphan in folder.glob(".step-*"):
        shutil.rmtree(orphan, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _is_whole(place: Path, inputs_digest: str) -> bool:
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        return manifest["inputs"] == inputs_digest and all(
            sha256_file(place / name) == digest for name, digest in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _state(learner: Learner, position: Position) -> dict[str, Any]:
    kind, keys, place, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - libraries draw from the global generator
    return {
        "weights": {name: weight for name, weight in learner.model.named_parameters() if weight.requires_grad},
        "optimizer": learner.optimizer.state_dict(),
        "scheduler": learner.scheduler.state_dict(),
        "random": {
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), place, has_gauss, gauss),
        },
        "position": {
            "step": position.step,
            "losses": list(position.losses),
            "seconds": position.seconds,
            "skipped": list(position.skipped),
            "validated": [[one.step, one.loss] for one in position.validated],
        },
    }


def _write(values: dict[str, Any], path: Path) -> None:
    """By way of memory: where the disk is full, torch's own writer hides the reason."""
    buffer = io.BytesIO()
    torch.save(values, buffer)
    path.write_bytes(buffer.getbuffer())


def _load(path: Path, learner: Learner) -> Position:
    state = torch.load(path, map_location="cpu", weights_only=True)
    with torch.no_grad():
        for name, weight in learner.model.named_parameters():
            if weight.requires_grad:
                weight.copy_(state["weights"][name])
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.scheduler.load_state_dict(state["scheduler"])
    drawn = state["random"]
    torch.set_rng_state(drawn["torch"])
    random.setstate(drawn["python"])
    kind, keys, place, has_gauss, gauss = drawn["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), place, has_gauss, gauss))  # noqa: NPY002 - as above
    return Position(
        step=state["position"]["step"],
        losses=tuple(state["position"]["losses"]),
        seconds=state["position"]["seconds"],
        skipped=tuple(state["position"].get("skipped", ())),
        validated=validations(state["position"].get("validated", ())),
    )


def validations(told: Iterable[tuple[int, float]]) -> tuple[Validated, ...]:
    """As a state has them."""
    return tuple(Validated(step=int(step), loss=float(loss)) for step, loss in told)

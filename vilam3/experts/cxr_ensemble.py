"""The chest x-ray ensemble: which networks there are, what each one's output is worth, and their mean.

Rules of the published demo (Project-MONAI VLM-Radiology-Agent-Framework fc8c5a7, ``m3/demo/experts/
expert_torchxrayvision.py``) on torchxrayvision 1.5.7. Its resize depends on its version; ours is that of 1.5.7,
bilinear with antialiasing.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from torch import nn
from torch.nn import functional

from vilam3.artifacts import sha256_file
from vilam3.errors import CheckpointError
from vilam3.experts.cxr_network import build_network
from vilam3.experts.cxr_weights import read_state
from vilam3.experts.facts import published_ensemble
from vilam3.experts.protocol import Watch, unwatched

PLAN = "ensemble.json"
SPAN = 1024.0  # torchxrayvision maps grey to [-1024, 1024]
UNKNOWN = 0.5  # what a member says about a label it lacks


class Member(BaseModel):
    """One network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    file: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    architecture: Mapping[str, Any]
    size_px: PositiveInt
    thresholds: tuple[float | None, ...]
    """Operating point of each label: the sigmoid output that becomes 0.5; None where the member lacks the label."""


class Plan(BaseModel):
    """``ensemble.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = "published"
    labels: tuple[str, ...]
    training_order: tuple[str, ...] = ()
    restricted: Mapping[str, tuple[str, ...]] = {}
    """Labels that only some members are asked about."""
    untrained: tuple[str, ...] = ()
    """Labels that stand in the text as absent because no member was trained on them."""
    intended_use: str = ""
    members: tuple[Member, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = {member.name for member in self.members}
        for member in self.members:
            if len(member.thresholds) != len(self.labels):
                raise ValueError(f"{member.name} has {len(member.thresholds)} thresholds for {len(self.labels)} labels")
        for label, asked in self.restricted.items():
            if label not in self.labels or not names & set(asked):
                raise ValueError(f"restricted names no label or no member at {label!r}")
        return self


def read_plan(folder: Path) -> Plan:
    """The folder's own ``ensemble.json``, or the published ensemble where there is none.

    Raises:
        CheckpointError: it cannot be used.
    """
    path = folder / PLAN
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else published_ensemble()
        return Plan.model_validate(content)
    except (ValueError, ValidationError) as error:
        raise CheckpointError(f"CXR ensemble {path}: {error}; write it anew or take it away") from error


class Ensemble:
    """Loaded networks; scores one radiograph at a time."""

    def __init__(self, folder: Path, plan: Plan, *, device: str = "cpu") -> None:
        """Load every member.

        Raises:
            CheckpointError: a weight file is missing, damaged or does not fit.
        """
        self.plan = plan
        digests = [sha256_file(folder / member.file) for member in plan.members if (folder / member.file).is_file()]
        self.weights_digest = digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()
        self._device = device
        self._networks = {member.name: _load(folder, member, len(plan.labels)).to(device) for member in plan.members}

    def score(self, grey_HW: NDArray[np.uint8], *, watch: Watch = unwatched) -> dict[str, float]:
        """Probability of each label, in the plan's order of labels; `watch` is told after each network."""
        outputs: dict[str, list[float]] = {}
        with torch.inference_mode():
            pixels_NCHW = prepare(grey_HW).to(self._device)
            for done, member in enumerate(self.plan.members):
                watch(done / len(self.plan.members))
                outputs[member.name] = self._output(member, pixels_NCHW)
        watch(1.0)
        return {label: self._mean(label, index, outputs) for index, label in enumerate(self.plan.labels)}

    def _output(self, member: Member, pixels_NCHW: torch.Tensor) -> list[float]:
        logits = self._networks[member.name](resize(pixels_NCHW, member.size_px))
        values: list[float] = normalise(torch.sigmoid(logits), _tensor(member.thresholds))[0].tolist()
        return values

    def _mean(self, label: str, index: int, outputs: Mapping[str, list[float]]) -> float:
        asked = self.plan.restricted.get(label, tuple(outputs))
        values = [outputs[name][index] for name in outputs if name in asked]
        return sum(values) / len(values)


def prepare(grey_HW: NDArray[np.uint8]) -> torch.Tensor:
    """Crop the middle square and map 0-255 to [-1024, 1024]; returns (1, 1, side, side) float32."""
    height, width = grey_HW.shape
    side = min(height, width)
    top, left = height // 2 - side // 2, width // 2 - side // 2
    square = torch.from_numpy(grey_HW[top : top + side, left : left + side].astype(np.float32))
    return ((2 * (square / 255) - 1) * SPAN)[None, None]


def resize(pixels_NCHW: torch.Tensor, size_px: int) -> torch.Tensor:
    """Bilinear with antialiasing, as torchxrayvision 1.5.7; a picture of the right size is left alone."""
    if pixels_NCHW.shape[2:] == (size_px, size_px):
        return pixels_NCHW
    return functional.interpolate(pixels_NCHW, size=(size_px, size_px), mode="bilinear", antialias=True)


def normalise(probabilities_NL: torch.Tensor, thresholds_L: torch.Tensor) -> torch.Tensor:
    """Stretch probabilities so that each label's operating point becomes 0.5; without one all become 0.5.

    Args:
        probabilities_NL: Sigmoid outputs.
        thresholds_L: Operating points; NaN where there is none.
    """
    below = probabilities_NL / (2 * thresholds_L)
    above = 1 - (1 - probabilities_NL) / (2 * (1 - thresholds_L))
    stretched = torch.where(probabilities_NL < thresholds_L, below, above)
    return torch.where(thresholds_L.isnan(), torch.full_like(stretched, UNKNOWN), stretched)


def _tensor(thresholds: tuple[float | None, ...]) -> torch.Tensor:
    return torch.tensor([float("nan") if value is None else value for value in thresholds])


def _load(folder: Path, member: Member, num_labels: int) -> nn.Module:
    try:
        network = build_network(member.architecture, num_labels=num_labels)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"CXR ensemble {folder / PLAN}: architecture of {member.name}: {error}") from error
    path = folder / member.file
    try:
        network.load_state_dict(read_state(path))
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"CXR weights {path}: they do not fit {member.name}: {detail}") from error
    return network.eval()

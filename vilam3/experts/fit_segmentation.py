"""Fitting a small segmentation network to crops, and judging it on whole volumes; what CT and MRI have in common."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets import UNet
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from vilam3.experts.fitting import Progress
from vilam3.experts.material import Case, read_cases, read_split

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]

CROP_XYZ = (40, 40, 24)
CROPS_PER_STEP = 2
AROUND_A_LESION = 0.7  # share of crops that hold a lesion, where there is one
MOST_TRAIN_CASES = 200  # more are not read: reading would take longer than they help
MOST_HELD_OUT_CASES = 40
SIZE_DIVISOR = 4  # the network halves twice
LEARNING_RATE = 2e-2
LEAST_AREA = 0.7  # slices are judged where the lesion has this share of its greatest area


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What differs between CT and MRI.

    Attributes:
        num_inputs: Channels of an image.
        num_outputs: Channels of scores.
        lesions: Label ids that crops are placed around.
        noise: Standard deviation of the noise added to prepared images.
        prepare: Stored voxels to network input, (channels, X, Y, Z).
        target: Label ids to what the loss compares with, (channels, X, Y, Z).
        loss: Of scores and targets.
    """

    num_inputs: int
    num_outputs: int
    lesions: tuple[int, ...]
    noise: float
    prepare: Callable[[NDArray[np.float32]], torch.Tensor]
    target: Callable[[NDArray[np.uint8]], torch.Tensor]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def read_both(folder: Path, *, suffixes: tuple[str, ...]) -> tuple[list[Case], list[Case]]:
    """Training and validation cases, at most so many as help.

    Raises:
        DataError: the material is missing or damaged.
    """
    split = read_split(folder)
    return (
        read_cases(folder, split["train"][:MOST_TRAIN_CASES], suffixes=suffixes),
        read_cases(folder, split["validation"][:MOST_HELD_OUT_CASES], suffixes=suffixes),
    )


def network_def(anatomy: Anatomy) -> dict[str, Any]:
    """The network as a bundle's config writes it.

    A strided U-Net costs a ninth of the published SegResNet a step, and batch normalisation keeps the level of
    intensities, which tells these organs apart.
    """
    return {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": anatomy.num_inputs,
        "out_channels": anatomy.num_outputs,
        "channels": [8, 16, 32],
        "strides": [2, 2],
        "num_res_units": 0,
        "norm": "batch",
        "act": "relu",
    }


def fit_network(anatomy: Anatomy, cases: Sequence[Case], *, steps: int, seed: int, on_progress: Progress) -> nn.Module:
    """Train a network with crops of the cases; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(**{key: value for key, value in network_def(anatomy).items() if key != "_target_"})
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _one_cycle(step, steps))
    crops = _crops(anatomy, cases, np.random.default_rng(seed))
    for step in range(1, steps + 1):
        inputs_NCXYZ, targets_NCXYZ = next(crops)
        loss = anatomy.loss(network(inputs_NCXYZ), targets_NCXYZ)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        schedule.step()
        on_progress(step, steps, float(loss.detach()))
    trained: nn.Module = network.eval()
    return trained


def _one_cycle(step: int, steps: int) -> float:
    """Rise over the first tenth, then fall along a cosine."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _crops(anatomy: Anatomy, cases: Sequence[Case], rng: np.random.Generator) -> Batches:
    """Batches without end: random crops, most of them around a lesion, with a little noise added."""
    lesions = [np.argwhere(np.isin(case.ids_XYZ, anatomy.lesions)).astype(np.int16) for case in cases]
    while True:
        chosen = []
        for index in rng.integers(len(cases), size=CROPS_PER_STEP):
            case = cases[index]
            place = _place(rng, case.ids_XYZ.shape, lesions[index])
            inputs_CXYZ = anatomy.prepare(case.voxels_CXYZ)[(slice(None), *place)]
            noise_CXYZ = torch.from_numpy(rng.standard_normal(inputs_CXYZ.shape, dtype=np.float32))
            chosen.append((inputs_CXYZ + anatomy.noise * noise_CXYZ, anatomy.target(case.ids_XYZ[place])))
        yield torch.stack([pair[0] for pair in chosen]), torch.stack([pair[1] for pair in chosen])


def _place(rng: np.random.Generator, shape: Sequence[int], lesions: NDArray[Any]) -> tuple[slice, ...]:
    centre = None
    if len(lesions) and rng.random() < AROUND_A_LESION:
        centre = lesions[rng.integers(len(lesions))]
    slices = []
    for axis, (size, crop) in enumerate(zip(shape, CROP_XYZ, strict=True)):
        width = min(crop, size - size % SIZE_DIVISOR)
        last = size - width
        low, high = 0, last
        if centre is not None:
            low, high = max(0, int(centre[axis]) - width + 1), min(last, int(centre[axis]))
        start = int(rng.integers(low, max(low, high) + 1))
        slices.append(slice(min(start, last), min(start, last) + width))
    return tuple(slices)


def whole_scores(network: nn.Module, anatomy: Anatomy, case: Case) -> NDArray[np.float32]:
    """Scores of a whole volume, (channels, X, Y, Z)."""
    inputs_CXYZ = anatomy.prepare(case.voxels_CXYZ)
    padding: list[int] = []
    for size in reversed(inputs_CXYZ.shape[1:]):
        padding += [0, -size % SIZE_DIVISOR]
    with torch.inference_mode():
        scores = network(functional.pad(inputs_CXYZ, padding)[None])[0]
    x, y, z = case.ids_XYZ.shape
    cut: NDArray[np.float32] = scores[:, :x, :y, :z].numpy()
    return cut


def judge(
    cases: Sequence[Case],
    found: Sequence[NDArray[np.uint8]],
    *,
    lesions: Sequence[int],
    names: Mapping[int, str],
    hosts: Mapping[int, int],
) -> dict[str, float]:
    """Dice of each label over all cases, and how often a slice is rightly said to hold a lesion or not."""
    metrics = {}
    present = sorted({int(label_id) for case in cases for label_id in np.unique(case.ids_XYZ)} - {0})
    for label_id in present:
        true = [case.ids_XYZ == label_id for case in cases]
        guessed = [ids_XYZ == label_id for ids_XYZ in found]
        both = sum(int((a & b).sum()) for a, b in zip(true, guessed, strict=True))
        sizes = sum(int(a.sum() + b.sum()) for a, b in zip(true, guessed, strict=True))
        metrics[f"dice_{_key(names, label_id)}"] = 2 * both / sizes
    for label_id in lesions:
        right = [
            _slices_right(case.ids_XYZ, ids_XYZ, label_id, hosts[label_id])
            for case, ids_XYZ in zip(cases, found, strict=True)
        ]
        verdicts = np.concatenate(right)
        if len(verdicts):
            metrics[f"slices_{_key(names, label_id)}"] = float(verdicts.mean())
    return metrics


def _slices_right(true_XYZ: NDArray[np.uint8], found_XYZ: NDArray[np.uint8], lesion: int, host: int) -> NDArray[Any]:
    """For each slice where the lesion, or else its host, is large: whether the verdict is right."""
    holds = bool((true_XYZ == lesion).any())
    areas = (true_XYZ == (lesion if holds else host)).sum(axis=(0, 1))
    judged = areas >= max(1.0, LEAST_AREA * areas.max())
    verdicts: NDArray[Any] = (found_XYZ == lesion).any(axis=(0, 1))[judged] == holds
    return verdicts


def _key(names: Mapping[int, str], label_id: int) -> str:
    return names[label_id].replace(" ", "_")


def regrid(case: Case) -> list[dict[str, Any]]:
    """To the axes and the voxel size of the training material."""
    return [
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32", "track_meta": True},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
        {"_target_": "Spacingd", "keys": "image", "pixdim": case.spacing_mm, "mode": "bilinear"},
    ]


def roi_size(cases: Sequence[Case]) -> list[int]:
    """A window that holds a whole training volume."""
    return [size + -size % SIZE_DIVISOR for size in cases[0].ids_XYZ.shape]


def provenance(
    folder: Path, train: Sequence[Case], held_out: Sequence[Case], *, steps: int, seed: int
) -> dict[str, Any]:
    """What a bundle's metadata says about how it came to be."""
    return {
        "material": folder.name,
        "train_cases": len(train),
        "validation_cases": len(held_out),
        "steps": steps,
        "seed": seed,
    }

"""Fitting the small chest x-ray network: one DenseNet over the published labels, with operating points."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from vilam3 import __version__
from vilam3.artifacts import whole_directory, write_json
from vilam3.errors import DataError
from vilam3.experts.bundle_files import INTENDED_USE, LICENSE
from vilam3.experts.cxr_ensemble import PLAN, SPAN, UNKNOWN, normalise, prepare, resize
from vilam3.experts.cxr_network import build_network
from vilam3.experts.facts import published_ensemble
from vilam3.experts.fitting import Fit, Progress
from vilam3.experts.material import read_findings, read_radiographs, read_split

ARCHITECTURE: Mapping[str, Any] = {
    "kind": "densenet",
    "growth_rate": 8,
    "block_config": [2, 2, 2],
    "num_init_features": 16,
}
WEIGHTS = "densenet-small-phantom.pt"
SIZE_PX = 112
BATCH = 24
LEARNING_RATE = 1e-2
CLASSIFIER_LEARNING_RATE = 0.5
NOISE = 15.0  # on the scale of 1024
SHIFT_PX = 6
MOST_TRAIN_CASES = 900
MOST_HELD_OUT_CASES = 200
UNTRAINED_LOGIT = -4.0  # 2 %: labels that no training case has are said to be absent
UNTRAINED_THRESHOLD = 0.5
THRESHOLDS = np.linspace(0.05, 0.95, 91)


def fit_cxr(folder: Path, out: Path, *, steps: int, seed: int, on_progress: Progress) -> dict[str, float]:
    """Fit and write it; see `vilam3.experts.fitting.fit_expert`."""
    split = read_split(folder)
    labels: list[str] = published_ensemble()["labels"]
    train = split["train"][:MOST_TRAIN_CASES]
    held_out = split["validation"][:MOST_HELD_OUT_CASES]
    findings = read_findings(folder)
    targets_NL = _targets(folder, findings, train, labels)
    trained = np.asarray(~np.isnan(targets_NL).all(axis=0))
    pixels_NCHW = _pixels(read_radiographs(folder, train))
    network = _fit(pixels_NCHW, targets_NL, steps=steps, seed=seed, on_progress=on_progress)
    _silence(network, trained)
    held_NL = _targets(folder, findings, held_out, labels)
    probabilities_NL = _probabilities(network, _pixels(read_radiographs(folder, held_out)))
    thresholds = _operating_points(probabilities_NL, held_NL)
    metrics = _judge(probabilities_NL, held_NL, thresholds, labels)
    plan = _plan(labels, trained, thresholds)
    notes = {"train_cases": len(train), "validation_cases": len(held_out), "steps": steps, "seed": seed}
    _write(out, network, plan, metadata=_metadata(metrics, notes))
    return metrics


def _targets(
    folder: Path, findings: Mapping[str, Mapping[str, int]], names: Sequence[str], labels: Sequence[str]
) -> NDArray[np.float32]:
    """0 or 1 for each case and label, NaN where the material does not say."""
    unlabelled = [name for name in names if name not in findings]
    if unlabelled:
        raise DataError(
            f"expert material {folder}: labels.json lacks {len(unlabelled)} cases; prepare the corpus again"
        )
    return np.array([[findings[name].get(label, np.nan) for label in labels] for name in names], dtype=np.float32)


def _pixels(grey_NHW: NDArray[np.uint8]) -> torch.Tensor:
    return torch.cat([resize(prepare(grey_HW), SIZE_PX) for grey_HW in grey_NHW])


def _fit(
    pixels_NCHW: torch.Tensor, targets_NL: NDArray[np.float32], *, steps: int, seed: int, on_progress: Progress
) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(ARCHITECTURE, num_labels=targets_NL.shape[1])
    # A nodule fills one cell in fifty of the last features, whose mean is classified, so weights must grow far.
    groups = [
        {"params": network.get_submodule("features").parameters(), "lr": LEARNING_RATE},
        {"params": network.get_submodule("classifier").parameters(), "lr": CLASSIFIER_LEARNING_RATE},
    ]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=[LEARNING_RATE, CLASSIFIER_LEARNING_RATE], total_steps=max(2, steps)
    )
    batches = _batches(pixels_NCHW, torch.from_numpy(targets_NL), np.random.default_rng(seed))
    for step in range(1, steps + 1):
        inputs_NCHW, wanted_NL = next(batches)
        loss = _masked_loss(network(inputs_NCHW), wanted_NL)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        schedule.step()
        on_progress(step, steps, float(loss.detach()))
    return network.eval()


def _batches(
    pixels_NCHW: torch.Tensor, targets_NL: torch.Tensor, rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches without end, a little shifted and with a little noise added."""
    while True:
        chosen = torch.from_numpy(rng.integers(len(pixels_NCHW), size=BATCH))
        rows, columns = rng.integers(-SHIFT_PX, SHIFT_PX + 1, size=2).tolist()
        shifted_NCHW = torch.roll(pixels_NCHW[chosen], (rows, columns), dims=(2, 3))
        noise_NCHW = torch.from_numpy(rng.standard_normal(shifted_NCHW.shape, dtype=np.float32))
        yield (shifted_NCHW + NOISE * noise_NCHW).clamp(-SPAN, SPAN), targets_NL[chosen]


def _masked_loss(logits_NL: torch.Tensor, targets_NL: torch.Tensor) -> torch.Tensor:
    known_NL = ~targets_NL.isnan()
    return functional.binary_cross_entropy_with_logits(logits_NL[known_NL], targets_NL[known_NL])


def _silence(network: nn.Module, trained: NDArray[np.bool_]) -> None:
    """Make labels that were never trained come out as surely absent, whatever the picture."""
    classifier = network.classifier
    assert isinstance(classifier, nn.Linear)
    never = torch.from_numpy(~trained)
    with torch.no_grad():
        classifier.weight[never] = 0.0
        classifier.bias[never] = UNTRAINED_LOGIT


def _probabilities(network: nn.Module, pixels_NCHW: torch.Tensor) -> NDArray[np.float32]:
    with torch.inference_mode():
        outputs = [torch.sigmoid(network(batch)) for batch in torch.split(pixels_NCHW, BATCH)]
    return torch.cat(outputs).numpy()


def _operating_points(probabilities_NL: NDArray[np.float32], targets_NL: NDArray[np.float32]) -> list[float]:
    """For each label the threshold with the most right verdicts; in a tie the middle of the best."""
    return [_operating_point(probabilities_NL[:, k], targets_NL[:, k]) for k in range(targets_NL.shape[1])]


def _operating_point(probabilities_N: NDArray[np.float32], targets_N: NDArray[np.float32]) -> float:
    known = ~np.isnan(targets_N)
    if not known.any():
        return UNTRAINED_THRESHOLD
    verdicts = probabilities_N[known, None] >= THRESHOLDS
    right = (verdicts == (targets_N[known, None] > 0)).mean(axis=0)
    best = np.flatnonzero(right == right.max())
    return round(float(THRESHOLDS[best[len(best) // 2]]), 4)


def _judge(
    probabilities_NL: NDArray[np.float32],
    targets_NL: NDArray[np.float32],
    thresholds: Sequence[float],
    labels: Sequence[str],
) -> dict[str, float]:
    scores_NL = normalise(torch.from_numpy(probabilities_NL), torch.tensor(thresholds)).numpy()
    metrics = {}
    for index, label in enumerate(labels):
        known = ~np.isnan(targets_NL[:, index])
        if not known.any():
            continue
        truth = targets_NL[known, index] > 0
        key = label.lower().replace(" ", "_")
        metrics[f"accuracy_{key}"] = float(((scores_NL[known, index] >= UNKNOWN) == truth).mean())
        if truth.any() and not truth.all():
            metrics[f"auc_{key}"] = _auc(scores_NL[known, index], truth)
    return metrics


def _auc(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    """Chance that a positive case scores above a negative one; ties count half."""
    above = scores[truth][:, None] - scores[~truth][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def _plan(labels: Sequence[str], trained: NDArray[np.bool_], thresholds: Sequence[float]) -> dict[str, Any]:
    return {
        "version": f"{__version__}+phantom",
        "labels": list(labels),
        "training_order": published_ensemble()["training_order"],
        "restricted": {},
        "untrained": [label for label, known in zip(labels, trained, strict=True) if not known],
        "intended_use": INTENDED_USE,
        "members": [
            {
                "name": "densenet-small-phantom",
                "file": WEIGHTS,
                "architecture": dict(ARCHITECTURE),
                "size_px": SIZE_PX,
                "thresholds": list(thresholds),
            }
        ],
    }


def _metadata(metrics: Mapping[str, float], notes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": "Chest x-ray classification, small, for phantoms",
        "version": f"{__version__}+phantom",
        "intended_use": INTENDED_USE,
        "eval_metrics": {name: value for name, value in metrics.items() if not math.isnan(value)},
        "fitted": dict(notes),
    }


def _write(out: Path, network: nn.Module, plan: Mapping[str, Any], *, metadata: Mapping[str, Any]) -> None:
    with whole_directory(out) as partial:
        torch.save(network.state_dict(), partial / WEIGHTS)
        write_json(partial / PLAN, plan)
        write_json(partial / "metadata.json", metadata)
        (partial / "LICENSE").write_text(LICENSE, encoding="utf-8")


FIT = Fit(folder="cxr", run=fit_cxr)

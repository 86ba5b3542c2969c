"""Fitting the small DENOISE: phantoms without noise, the same with the quantum noise of a low dose, and back.

It draws phantoms of its own, because those of a corpus are noisy themselves and there would be no truth to measure by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vilam3.data.phantom.ct import make_ct
from vilam3.data.phantom.dose import low_dose
from vilam3.data.phantom.settings import PhantomSettings
from vilam3.experts.bundle_files import inference_config, metadata, write_bundle
from vilam3.experts.denoise import FOLDER, restore
from vilam3.experts.denoise_network import ResidualNet
from vilam3.experts.fitting import Fit, Progress

NOISELESS = PhantomSettings(ct_noise_hu=(0.0, 0.0))
PHOTONS = (2.0e3, 2.0e4)  # for each ray, drawn log-uniformly
TRAIN_CASES, HELD_OUT_CASES = 10, 4
HELD_OUT_SEED = 1_000_003  # so that no seed's training phantoms are another's held-out ones
CROP_XYZ = (32, 32, 12)
CROPS_PER_STEP = 2
LEARNING_RATE = 1e-2
WINDOW_HU = 400.0  # the published CT window; the peak that the PSNR is taken against
NETWORK = {"width": 12, "depth": 4}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """A phantom at two doses."""

    clean_XYZ: NDArray[np.float32]
    noisy_XYZ: NDArray[np.float32]


def fit_denoise(folder: Path, out: Path, *, steps: int, seed: int, on_progress: Progress) -> dict[str, float]:
    """Fit and write it; see `vilam3.experts.fitting.fit_expert`. Nothing is read from `folder`."""
    del folder
    train = pairs(TRAIN_CASES, seed=seed)
    held_out = pairs(HELD_OUT_CASES, seed=HELD_OUT_SEED + seed)
    network = _fit(train, steps=steps, seed=seed, on_progress=on_progress)
    metrics = judge(network, held_out)
    description = metadata(
        name="Low-dose CT restoration, small, for phantoms",
        modality="CT",
        inputs=["image"],
        outputs={"0": "image"},
        provenance={"phantoms": TRAIN_CASES, "photons": list(PHOTONS), "steps": steps, "seed": seed},
        metrics=metrics,
        roi_size=CROP_XYZ,
    )
    write_bundle(out, config=_config(), description=description, state=network.state_dict())
    return metrics


def pairs(count: int, *, seed: int) -> list[Pair]:
    """Phantoms with and without the quantum noise of a low dose; the same seed draws the same ones."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        volume = make_ct(rng, NOISELESS).volume
        photons = float(np.exp(rng.uniform(*np.log(PHOTONS))))
        noisy = low_dose(volume, photons=photons, rng=rng)
        made.append(
            Pair(
                clean_XYZ=np.asarray(volume.voxels_XYZ, dtype=np.float32),
                noisy_XYZ=np.asarray(noisy.voxels_XYZ, dtype=np.float32),
            )
        )
    return made


def judge(network: nn.Module, cases: Sequence[Pair]) -> dict[str, float]:
    """Error and signal to noise over all voxels of the cases, before and after."""
    before = [pair.noisy_XYZ - pair.clean_XYZ for pair in cases]
    after = [restore(network, pair.noisy_XYZ) - pair.clean_XYZ for pair in cases]
    metrics = {}
    for when, errors in (("before", before), ("after", after)):
        rmse_hu = float(np.sqrt(np.mean([np.mean(error**2) for error in errors])))
        metrics[f"rmse_{when}_hu"] = rmse_hu
        metrics[f"psnr_{when}_db"] = float(20 * np.log10(WINDOW_HU / rmse_hu))
    return metrics


def _fit(train: Sequence[Pair], *, steps: int, seed: int, on_progress: Progress) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ResidualNet(**NETWORK)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    rng = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        noisy, clean = (torch.from_numpy(crops)[:, None] for crops in _crops(rng, train))
        loss = (network(noisy) - clean).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        on_progress(step, steps, float(loss.detach()))
    trained: nn.Module = network.eval()
    return trained


def _crops(rng: np.random.Generator, train: Sequence[Pair]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    chosen = []
    for index in rng.integers(len(train), size=CROPS_PER_STEP):
        pair = train[index]
        starts = [int(rng.integers(size - crop + 1)) for size, crop in zip(pair.clean_XYZ.shape, CROP_XYZ, strict=True)]
        place = tuple(slice(start, start + crop) for start, crop in zip(starts, CROP_XYZ, strict=True))
        chosen.append((pair.noisy_XYZ[place], pair.clean_XYZ[place]))
    return np.stack([noisy for noisy, _ in chosen]), np.stack([clean for _, clean in chosen])


def _config() -> dict[str, Any]:
    return inference_config(
        network_def={"_target_": "vilam3.experts.denoise_network.ResidualNet", **NETWORK},
        preprocessing=[{"_target_": "EnsureChannelFirstd", "keys": "image"}],
        postprocessing=[],
        roi_size=CROP_XYZ,
        takes={"input_dict": "${'image': 'image.nii.gz'}"},
    )


FIT = Fit(folder=FOLDER, run=fit_denoise)

"""Fitting the small BRATS: nested glioma regions in MRI of four sequences, in the published channel orders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses import DiceLoss
from numpy.typing import NDArray
from torch.nn import functional

from vilam3.data.sequences import MR_SEQUENCES
from vilam3.experts.bundle_files import inference_config, metadata, write_bundle
from vilam3.experts.fit_segmentation import (
    Anatomy,
    fit_network,
    judge,
    network_def,
    provenance,
    read_both,
    regrid,
    roi_size,
    whole_scores,
)
from vilam3.experts.fitting import Fit, Progress
from vilam3.experts.material import Case
from vilam3.experts.postprocess import BratsIds

CORE, EDEMA, ENHANCING = 1, 2, 4
NAMES: Mapping[int, str] = {CORE: "core", EDEMA: "edema", ENHANCING: "enhancing"}
SMALLEST_REGION_VOXELS = 12


def fit_brats(folder: Path, out: Path, *, steps: int, seed: int, on_progress: Progress) -> dict[str, float]:
    """Fit and write it; see `vilam3.experts.fitting.fit_expert`."""
    train, held_out = read_both(folder, suffixes=tuple(f"_{sequence}" for sequence in MR_SEQUENCES))
    anatomy = _anatomy()
    network = fit_network(anatomy, train, steps=steps, seed=seed, on_progress=on_progress)
    options = {"key": "pred", "smallest_voxels": SMALLEST_REGION_VOXELS}
    finish = BratsIds(key="pred", smallest_voxels=SMALLEST_REGION_VOXELS)
    found = [finish.ids(_sigmoid(whole_scores(network, anatomy, case))) for case in held_out]
    metrics = judge(held_out, found, lesions=(ENHANCING,), names=NAMES, hosts={ENHANCING: CORE})
    window = roi_size(train)
    description = metadata(
        name="BraTS MRI segmentation, small, for phantoms",
        modality="MR",
        inputs=MR_SEQUENCES,
        outputs={"0": "Tumor core", "1": "Whole tumor", "2": "Enhancing tumor"},
        provenance=provenance(folder, train, held_out, steps=steps, seed=seed),
        metrics=metrics,
        roi_size=window,
    )
    config = _config(anatomy, train[0], options, window)
    write_bundle(out, config=config, description=description, state=network.state_dict())
    return metrics


def _anatomy() -> Anatomy:
    overlap = DiceLoss(sigmoid=True, batch=True)

    def loss(scores: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        dice: torch.Tensor = overlap(scores, regions)
        return functional.binary_cross_entropy_with_logits(scores, regions) + dice

    return Anatomy(
        num_inputs=len(MR_SEQUENCES),
        num_outputs=3,
        lesions=(CORE, EDEMA, ENHANCING),
        noise=0.1,
        prepare=_standardise,
        target=_regions,
        loss=loss,
    )


def _standardise(voxels_CXYZ: NDArray[np.float32]) -> torch.Tensor:
    """As MONAI's NormalizeIntensity with `nonzero` and `channel_wise`."""
    standard = voxels_CXYZ.astype(np.float32)
    for channel in standard:
        inside = channel != 0
        if inside.any():
            channel[inside] = (channel[inside] - channel[inside].mean()) / max(float(channel[inside].std()), 1e-6)
    return torch.from_numpy(standard)


def _regions(ids_XYZ: NDArray[np.uint8]) -> torch.Tensor:
    """Nested regions in the published order: tumour core, whole tumour, enhancing tumour."""
    whole = np.isin(ids_XYZ, (CORE, EDEMA, ENHANCING))
    return torch.from_numpy(
        np.stack([whole & (ids_XYZ != EDEMA), whole, ids_XYZ == ENHANCING]).astype(np.float32),
    )


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)


def _config(anatomy: Anatomy, case: Case, options: Mapping[str, Any], window: Sequence[int]) -> dict[str, Any]:
    return inference_config(
        network_def=network_def(anatomy),
        preprocessing=[
            *regrid(case),
            {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True},
        ],
        postprocessing=[
            {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
            {"_target_": "vilam3.experts.postprocess.BratsIds", **options},
        ],
        roi_size=window,
        takes={"test_datalist": [{"image": [f"{sequence}.nii.gz" for sequence in MR_SEQUENCES]}]},
    )


FIT = Fit(folder="brats_mri_segmentation", run=fit_brats)

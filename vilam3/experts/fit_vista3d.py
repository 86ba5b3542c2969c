"""Fitting the small VISTA3D: organs and tumours in CT, one class for each label id of the corpus."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses import DiceLoss
from numpy.typing import NDArray
from torch.nn import functional

from vilam3.errors import DataError
from vilam3.experts.bundle_files import inference_config, metadata, write_bundle
from vilam3.experts.facts import LABELS
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
from vilam3.experts.postprocess import LabelIds

# Narrower than the published -964 to 1054 HU, and stretched to unit variance, so that a small network sees contrasts
# of tens of HU within a minute.
SCALE: Mapping[str, float] = {"a_min": -50.0, "a_max": 200.0, "b_min": -2.5, "b_max": 2.5}
HOSTS: Mapping[int, int] = {26: 1, 24: 4}  # tumour to its organ
SMALLEST_TUMOR_VOXELS = 12
GREATEST_WEIGHT = 15.0


def fit_vista3d(folder: Path, out: Path, *, steps: int, seed: int, on_progress: Progress) -> dict[str, float]:
    """Fit and write it; see `vilam3.experts.fitting.fit_expert`."""
    train, held_out = read_both(folder, suffixes=("",))
    channel_ids = sorted({0} | {int(label_id) for case in train for label_id in np.unique(case.ids_XYZ)})
    if unnamed := set(channel_ids) - set(LABELS) - {0}:
        raise DataError(f"expert material {folder}: label ids {sorted(unnamed)} are none of VISTA3D's 1 to 132")
    anatomy = _anatomy(train, channel_ids)
    network = fit_network(anatomy, train, steps=steps, seed=seed, on_progress=on_progress)
    options = _options(channel_ids)
    finish = LabelIds(**options)
    everything = frozenset(channel_ids)
    found = [finish.ids(whole_scores(network, anatomy, case).argmax(0), prompt=everything) for case in held_out]
    metrics = judge(held_out, found, lesions=anatomy.lesions, names=LABELS, hosts=HOSTS)
    window = roi_size(train)
    description = metadata(
        name="VISTA3D, small, for phantoms",
        modality="CT",
        inputs=["image"],
        outputs={"0": "background"} | {str(label_id): LABELS[label_id] for label_id in channel_ids if label_id},
        provenance=provenance(folder, train, held_out, steps=steps, seed=seed),
        metrics=metrics,
        roi_size=window,
    )
    config = _config(anatomy, train[0], options, window)
    write_bundle(out, config=config, description=description, state=network.state_dict())
    return metrics


def _anatomy(train: Sequence[Case], channel_ids: Sequence[int]) -> Anatomy:
    weights = _class_weights(train, channel_ids)
    overlap = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)

    def loss(scores: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        dice: torch.Tensor = overlap(scores, classes)
        return functional.cross_entropy(scores, classes[:, 0], weight=weights) + dice

    return Anatomy(
        num_inputs=1,
        num_outputs=len(channel_ids),
        lesions=tuple(label_id for label_id in channel_ids if label_id in HOSTS),
        noise=0.1,
        prepare=_window,
        target=lambda ids_XYZ: torch.from_numpy(np.searchsorted(channel_ids, ids_XYZ))[None],
        loss=loss,
    )


def _class_weights(train: Sequence[Case], channel_ids: Sequence[int]) -> torch.Tensor:
    """Inverse root of the frequency, background being 1: rare labels count more, but do not swamp their organ."""
    counts = sum(np.bincount(case.ids_XYZ.ravel(), minlength=256) for case in train)
    frequency = np.asarray(counts)[list(channel_ids)]
    return torch.tensor(np.minimum(np.sqrt(frequency[0] / frequency), GREATEST_WEIGHT), dtype=torch.float32)


def _options(channel_ids: Sequence[int]) -> dict[str, Any]:
    lesions = [label_id for label_id in channel_ids if label_id in HOSTS]
    return {
        "key": "pred",
        "channel_ids": list(channel_ids),
        "hosts": {str(label_id): HOSTS[label_id] for label_id in lesions if HOSTS[label_id] in channel_ids},
        "smallest_voxels": {str(label_id): SMALLEST_TUMOR_VOXELS for label_id in lesions},
    }


def _window(voxels_CXYZ: NDArray[np.float32]) -> torch.Tensor:
    """As MONAI's ScaleIntensityRange with clipping."""
    share = (voxels_CXYZ - SCALE["a_min"]) / (SCALE["a_max"] - SCALE["a_min"])
    scaled = np.clip(share, 0, 1) * (SCALE["b_max"] - SCALE["b_min"]) + SCALE["b_min"]
    return torch.from_numpy(scaled.astype(np.float32))


def _config(anatomy: Anatomy, case: Case, options: Mapping[str, Any], window: Sequence[int]) -> dict[str, Any]:
    return inference_config(
        network_def=network_def(anatomy),
        preprocessing=[
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            *regrid(case),
            {"_target_": "ScaleIntensityRanged", "keys": "image", **SCALE, "clip": True},
        ],
        postprocessing=[{"_target_": "vilam3.experts.postprocess.LabelIds", **options}],
        roi_size=window,
        takes={"input_dict": "${'image': 'image.nii.gz', 'label_prompt': [1]}"},
    )


FIT = Fit(folder="vista3d", run=fit_vista3d)

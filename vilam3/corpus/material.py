"""Files that evaluation and the small experts read: studies, and images with their labels."""

from pathlib import Path

import numpy as np
from PIL import Image

from vilam3.corpus.patients import Patient
from vilam3.data.nifti import write_label_map, write_volume

MATERIAL_OF = {"ct": "vista3d", "mri": "brats", "cxr": "cxr"}


def write_study(folder: Path, patient: Patient) -> None:
    """Write what a hospital would send: NIfTI volumes or a PNG, without any label."""
    if patient.kind == "cxr":
        _write_picture(folder / "cxr_frontal.png", patient)
    elif patient.kind == "ct":
        write_volume(folder / "ct.nii.gz", patient.study.volumes[0], durable=False)
    else:
        for volume in patient.study.volumes:
            write_volume(folder / f"mri_{volume.sequence}.nii.gz", volume, durable=False)


def write_material(root: Path, patient: Patient) -> None:
    """Write a patient's images and label maps below ``experts/`` in the form `vilam3.experts.fitting` reads.

    The findings of radiographs go into one ``labels.json``, which the corpus writes at its end.
    """
    folder = root / MATERIAL_OF[patient.kind]
    if patient.kind == "cxr":
        _write_picture(folder / "images" / f"{patient.name}.png", patient)
        return
    assert patient.ids_XYZ is not None
    for volume in patient.study.volumes:
        suffix = f"_{volume.sequence}" if volume.sequence else ""
        write_volume(folder / "images" / f"{patient.name}{suffix}.nii.gz", volume, durable=False)
    labels = folder / "labels" / f"{patient.name}.nii.gz"
    write_label_map(labels, patient.ids_XYZ, like=patient.study.volumes[0], durable=False)


def _write_picture(path: Path, patient: Patient) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey_HW = patient.study.radiograph_HW
    assert grey_HW is not None
    Image.fromarray(grey_HW.astype(np.uint8)).save(path, format="PNG")

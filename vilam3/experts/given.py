"""Pictures and words for a segmentation that lies in a file, whoever made it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vilam3.data.limits import Limits
from vilam3.data.nifti import read_volume
from vilam3.data.render import slice_grey_HW
from vilam3.data.sample import Dialect, Modality
from vilam3.data.study import Volume
from vilam3.errors import DataError
from vilam3.experts.overlay import draw
from vilam3.experts.wording import brats_text, vista3d_text

GREATEST_ID = 255
GRID_TOLERANCE_MM = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawn:
    """What goes back to the model, and the slice it was drawn on."""

    slice_picture: Image.Image
    overlay: Image.Image
    text: str


def drawn(image: Path, mask: Path, *, expert: str, dialect: Dialect, slice_index: int | None) -> Drawn:
    """Draw a mask over its image as the expert would.

    Args:
        image: NIfTI; CT for VISTA3D, the first MR sequence for BRATS.
        mask: NIfTI with label ids on the same grid.
        expert: ``VISTA3D`` or ``BRATS``.
        dialect: Wording.
        slice_index: Axial slice of the RAS volume; None is the middle one.

    Raises:
        DataError: a file cannot be read, the grids differ, or the slice is out of range.
    """
    modality: Modality = "CT" if expert == "VISTA3D" else "MRI"
    volume = _read(image)
    ids_XYZ = _read_ids(mask, like=volume)
    chosen = volume.voxels_XYZ.shape[2] // 2 if slice_index is None else slice_index
    grey_HW = slice_grey_HW(volume, modality=modality, slice_index=chosen)
    drawing = draw(volume, ids_XYZ, modality=modality, slice_index=chosen)
    text = vista3d_text(drawing.colors) if expert == "VISTA3D" else brats_text(drawing.colors, dialect=dialect)
    return Drawn(slice_picture=Image.fromarray(grey_HW).convert("RGB"), overlay=drawing.picture, text=text)


def _read(path: Path) -> Volume:
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a .nii or .nii.gz")
    return read_volume(path, limits=Limits(), where=path.name)[0]


def _read_ids(path: Path, *, like: Volume) -> NDArray[np.uint8]:
    mask = _read(path)
    ids = mask.voxels_XYZ
    if ids.shape != like.voxels_XYZ.shape or not np.allclose(mask.affine_RAS, like.affine_RAS, atol=GRID_TOLERANCE_MM):
        raise DataError(
            f"{path.name}: its grid {ids.shape} is not that of the image {like.voxels_XYZ.shape}; "
            f"resample the mask to the image"
        )
    if (np.rint(ids) != ids).any() or ids.min() < 0 or ids.max() > GREATEST_ID:
        raise DataError(f"{path.name}: holds values that are no label ids from 0 to {GREATEST_ID}; write ids as uint8")
    return ids.astype(np.uint8)

"""Studies as the pictures the language model sees, in the window and orientation of the published model.

The published demo scales intensities, takes a slice on the third RAS axis, casts to uint8 by truncation, swaps the
axes and turns by 180 degrees: row 0 is anterior, column 0 is the patient's right. Experts draw their overlays with the
same two functions, so that picture and overlay always match. Knows no file format and no expert.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vilam3.data.sample import Modality
from vilam3.data.study import Study, Volume
from vilam3.errors import DataError

CT_LEVEL_HU = 50.0
CT_WIDTH_HU = 400.0
GREY_MAX = 255

Gray = NDArray[np.uint8]


def slice_grey_HW(volume: Volume, *, modality: Modality, slice_index: int) -> Gray:  # noqa: N802 - shape letters
    """Grey picture of one axial slice.

    CT is shown from -150 to 250 HU; anything else between the least and the greatest value of the whole volume. The
    arithmetic is float32 in the order MONAI does it, because the truncating cast makes the last bit visible.

    Args:
        volume: In RAS orientation.
        modality: `CT` selects the fixed window.
        slice_index: Index on the third axis, 0 is the lowest.

    Returns:
        uint8 in 0-255, rows from anterior to posterior, columns from the patient's right to left.

    Raises:
        DataError: the slice is out of range.
    """
    slice_XY = _slice(volume.voxels_XYZ, slice_index).astype(np.float32)
    low, high = display_range(volume, modality=modality)
    return _turn(_scale(slice_XY, low=low, high=high).astype(np.uint8))


def display_range(volume: Volume, *, modality: Modality) -> tuple[float, float]:
    """The intensities that the model is shown as black and as white."""
    if modality == "CT":
        return CT_LEVEL_HU - CT_WIDTH_HU / 2, CT_LEVEL_HU + CT_WIDTH_HU / 2
    return float(volume.voxels_XYZ.min()), float(volume.voxels_XYZ.max())


def mask_slice_HW(ids_XYZ: NDArray[np.uint8], slice_index: int) -> NDArray[np.uint8]:  # noqa: N802 - shape letters
    """Label ids of one axial slice, in the orientation of `slice_grey_HW`.

    Raises:
        DataError: the slice is out of range.
    """
    return _turn(_slice(ids_XYZ, slice_index).astype(np.uint8))


def radiograph_grey_HW(  # noqa: N802 - shape letters
    radiograph_HW: NDArray[np.uint8] | NDArray[np.uint16],
) -> Gray:
    """Grey picture of a 2-D study: 8-bit as it is, 16-bit linearly between its least and greatest value."""
    if radiograph_HW.dtype == np.uint8:
        return radiograph_HW.astype(np.uint8)
    pixels_HW = radiograph_HW.astype(np.float32)
    return _scale(pixels_HW, low=float(pixels_HW.min()), high=float(pixels_HW.max())).astype(np.uint8)


def views(study: Study, *, slice_index: int | None = None) -> tuple[Image.Image, ...]:
    """The RGB pictures of a study: one for each volume, in their order, or the one 2-D picture.

    Args:
        study: As the readers make it; four MR sequences are in the order t1c, t1, t2, flair.
        slice_index: Axial slice; None is the middle one, `num_slices // 2`.

    Raises:
        DataError: the slice is out of range.
    """
    if not study.volumes:
        _check_slice(0 if slice_index is None else slice_index, 1)
        return (_flat_view(study),)
    chosen = study.num_slices // 2 if slice_index is None else slice_index
    return tuple(
        Image.fromarray(slice_grey_HW(volume, modality=study.modality, slice_index=chosen)).convert("RGB")
        for volume in study.volumes
    )


def _flat_view(study: Study) -> Image.Image:
    if study.picture_HWC is not None:
        return Image.fromarray(study.picture_HWC)
    if study.radiograph_HW is None:
        raise DataError(f"study {study.digest[:12]}: holds neither a volume nor a picture; read the images again")
    return Image.fromarray(radiograph_grey_HW(study.radiograph_HW)).convert("RGB")


def _slice(array_XYZ: NDArray[Any], slice_index: int) -> NDArray[Any]:
    _check_slice(slice_index, array_XYZ.shape[2])
    return array_XYZ[:, :, slice_index]


def _check_slice(slice_index: int, num_slices: int) -> None:
    if not 0 <= slice_index < num_slices:
        raise DataError(
            f"slice {slice_index}: the study has {num_slices} axial slice{'s' if num_slices > 1 else ''}; "
            f"choose 0 to {num_slices - 1}"
        )


def _scale(pixels: NDArray[np.float32], *, low: float, high: float) -> NDArray[np.float32]:
    if low == high:
        return np.zeros_like(pixels)
    scaled = (pixels - np.float32(low)) / (np.float32(high) - np.float32(low)) * np.float32(GREY_MAX)
    return np.clip(scaled, 0, GREY_MAX)


def _turn(slice_XY: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.rot90(np.swapaxes(slice_XY, 0, 1), k=2))

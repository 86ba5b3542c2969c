"""One 2-D DICOM image as grey levels in which bright is dense, shown in the window its maker chose."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from vilam3.data.dicom_file import check_pixels, read_frames, text
from vilam3.data.limits import Limits
from vilam3.errors import DataError

Grey = NDArray[np.uint8] | NDArray[np.uint16]
UINT16_MAX = 2**16 - 1
SHADES = ("RescaleSlope", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter")


def read_radiograph(path: Path, header: Dataset, *, limits: Limits, where: str) -> tuple[Grey, list[str]]:
    """Read one 2-D image.

    8-bit values that no table or window changes stay as they are; all else becomes 16-bit over its full range.

    Returns:
        The picture and what was noticed.

    Raises:
        DataError: damaged, in colour or with several frames.
        TooLargeError: beyond the limits.
    """
    num_frames = check_pixels(header, limits=limits, where=where)
    if num_frames > 1:
        raise DataError(f"{where}: {num_frames} frames; only single pictures, CT and MR are read, export one frame")
    stored_HW = read_frames(path, header, limits=limits, where=where)[0]
    inverted = text(header, "PhotometricInterpretation") == "MONOCHROME1"
    if stored_HW.dtype == np.uint8 and not any(keyword in header for keyword in SHADES):
        return (np.uint8(255) - stored_HW if inverted else stored_HW), []
    noticed: list[str] = []
    shades_HW = _windowed(stored_HW, header, noticed)
    low, high = float(shades_HW.min()), float(shades_HW.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{where}: rescaled values are not finite; export it again")
    span = (high - low) or 1.0
    grey_HW = np.rint((shades_HW - low) / span * UINT16_MAX).astype(np.uint16)
    return (UINT16_MAX - grey_HW if inverted else grey_HW), noticed


def _windowed(stored_HW: NDArray[np.integer[Any]], header: Dataset, noticed: list[str]) -> NDArray[np.float64]:
    """Modality table or rescale, then the maker's table or window; one that cannot be used is left out and told."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(apply_voi_lut(apply_modality_lut(stored_HW, header), header), dtype=np.float64)
    except Exception:  # noqa: BLE001 - pydicom raises anything on damaged tables, and its messages quote tags
        noticed.append("the file's own grey window cannot be used; grey levels run from the least to the greatest")
        return stored_HW.astype(np.float64)

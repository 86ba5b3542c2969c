"""A segmentation drawn over its slice as published weights know it, and which colour means what.

Colours follow the rank of a label among those present in the slice, not its id (Project-MONAI
VLM-Radiology-Agent-Framework fc8c5a7, ``m3/demo/experts/utils.py``). The drawing is `skimage.color.label2rgb` with its
defaults: 30 % colour, and 30 % black on everything unlabelled, so an empty slice is dimmed as well.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.color import label2rgb

from vilam3.data.render import mask_slice_HW, slice_grey_HW
from vilam3.data.sample import Modality
from vilam3.data.study import Volume
from vilam3.experts.facts import PALETTE

ALPHA = 0.3
BACKGROUND = 0
WHITE = 255


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawing:
    """One overlay.

    Attributes:
        picture: RGB.
        colors: Label id to colour name for the labels of the slice, in ascending order of id; colours may repeat.
    """

    picture: Image.Image
    colors: Mapping[int, str]


def draw(volume: Volume, ids_XYZ: NDArray[np.uint8], *, modality: Modality, slice_index: int) -> Drawing:
    """Draw one slice of a segmentation over the image it belongs to.

    Args:
        volume: The image; for MRI the first sequence.
        ids_XYZ: Label ids on its grid, 0 is background.
        modality: Decides the window.
        slice_index: Axial slice, 0 is the lowest.

    Raises:
        DataError: the slice is out of range.
    """
    grey_HW = slice_grey_HW(volume, modality=modality, slice_index=slice_index)
    ids_HW = mask_slice_HW(ids_XYZ, slice_index)
    return Drawing(picture=Image.fromarray(blend_HWC(grey_HW, ids_HW)), colors=colors_by_rank(ids_HW))


def blend_HWC(grey_HW: NDArray[np.uint8], ids_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:  # noqa: N802 - shape letters
    """Paint label ids over a grey slice; the cast to uint8 truncates, as published."""
    painted_HWC = label2rgb(ids_HW, image=grey_HW, colors=PALETTE, alpha=ALPHA, bg_label=BACKGROUND)
    blended_HWC: NDArray[np.uint8] = (painted_HWC * WHITE).astype(np.uint8)
    return blended_HWC


def colors_by_rank(ids: NDArray[np.uint8]) -> dict[int, str]:
    """Colour names of the label ids present, given out in ascending order of id and again from the start after 16."""
    present = [int(label_id) for label_id in np.unique(ids) if label_id != BACKGROUND]
    return dict(zip(present, itertools.cycle(PALETTE), strict=False))


def legend(colors: Mapping[int, str], names: Mapping[int, str]) -> dict[str, str]:
    """Colour name to label name in the order drawn; labels that share a colour share the entry."""
    entries: dict[str, str] = {}
    for label_id, color in colors.items():
        name = names.get(label_id, f"label {label_id}")
        entries[color] = f"{entries[color]}, {name}" if color in entries else name
    return entries

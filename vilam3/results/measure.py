"""What can be measured on a segmentation alone: volume, extent, and the slice that shows most of a structure.

Lengths and areas are of voxel edges and centres on the grid as it is, sheared or oblique; "axial" is the third axis.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vilam3.experts.protocol import FloatArray, LabelMap

MM3_PER_ML = 1000.0
NUM_IDS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """One label that is present.

    Attributes:
        label_id: In the mask.
        label: Its name.
        voxels: How many.
        volume_ml: All of them.
        extent_mm: From the first to the last voxel along X, Y and Z, both included.
        fullest_slice: Axial slice with the most of it, 0 is the lowest.
        area_mm2: In that slice.
        longest_mm: Greatest distance between two of its voxel centres in that slice.
    """

    label_id: int
    label: str
    voxels: int
    volume_ml: float
    extent_mm: tuple[float, float, float]
    fullest_slice: int
    area_mm2: float
    longest_mm: float


def structures(mask: LabelMap) -> list[Structure]:
    """Every label that is present, in ascending order of id."""
    ids_XYZ, edges = mask.ids_XYZ, mask.affine_RAS[:3, :3]
    counts = [_counts(ids_XYZ, axis) for axis in range(3)]
    voxel_ml = abs(float(np.linalg.det(edges))) / MM3_PER_ML
    pixel_mm2 = float(np.linalg.norm(np.cross(edges[:, 0], edges[:, 1])))
    found = []
    for label_id in (int(present) for present in np.flatnonzero(counts[2].sum(axis=0)) if present):
        fullest = int(counts[2][:, label_id].argmax())
        in_slice = int(counts[2][fullest, label_id])
        x, y, z = (_extent_mm(counts[axis][:, label_id], edges[:, axis]) for axis in range(3))
        found.append(
            Structure(
                label_id=label_id,
                label=mask.names.get(label_id, f"label {label_id}"),
                voxels=(voxels := int(counts[2][:, label_id].sum())),
                volume_ml=round(voxels * voxel_ml, 6),
                extent_mm=(x, y, z),
                fullest_slice=fullest,
                area_mm2=round(in_slice * pixel_mm2, 3),
                longest_mm=_longest_mm(ids_XYZ[:, :, fullest] == label_id, edges[:, :2]),
            )
        )
    return found


def fullest_slice(mask: LabelMap, *, asked: str = "") -> int | None:
    """The axial slice with the most of what was asked for; None where nothing is labelled.

    Args:
        mask: The segmentation.
        asked: An expert's argument. The labels of this very name count, so that "hepatic tumor" is not answered with
            the slice that shows most of the liver; without one of this name, all labels do.
    """
    counts = _counts(mask.ids_XYZ, 2)
    named = [label_id for label_id, name in mask.names.items() if name == asked and counts[:, label_id].any()]
    totals = _total(counts, named or range(1, NUM_IDS))
    return int(totals.argmax()) if totals.any() else None


def _counts(ids_XYZ: NDArray[np.uint8], axis: int) -> NDArray[np.int64]:
    """Voxels of each id in each position along an axis, positions x ids."""
    planes = np.moveaxis(ids_XYZ, axis, 0)
    return np.stack([np.bincount(plane.ravel(), minlength=NUM_IDS) for plane in planes])


def _total(counts: NDArray[np.int64], label_ids: Collection[int]) -> NDArray[np.int64]:
    total: NDArray[np.int64] = counts[:, list(label_ids)].sum(axis=1)
    return total


def _extent_mm(counts: NDArray[np.int64], edge: FloatArray) -> float:
    places = np.flatnonzero(counts)
    return round(float(np.linalg.norm(edge)) * float(places[-1] - places[0] + 1), 3)


def _longest_mm(is_it_XY: NDArray[np.bool_], edges: FloatArray) -> float:
    """The two farthest voxels: of each line only the outermost can be among them."""
    columns = np.flatnonzero(is_it_XY.any(axis=1))
    first = is_it_XY[columns].argmax(axis=1)
    last = is_it_XY.shape[1] - 1 - is_it_XY[columns, ::-1].argmax(axis=1)
    ends = np.concatenate([np.stack([columns, first]), np.stack([columns, last])], axis=1)
    points_mm = (edges @ ends).T
    squared = (points_mm**2).sum(axis=1)
    apart = squared[:, None] + squared[None] - 2 * points_mm @ points_mm.T
    return round(float(np.sqrt(max(float(apart.max()), 0.0))), 3)

"""Where voxels lie in the patient: reorientation to RAS and back, checks of affines, agreement of grids.

LPS (DICOM) and RAS (NIfTI) differ in the sign of the first two axes. Axes are flipped and permuted to the closest RAS
order and never resampled, so an oblique or sheared grid stays so in its affine. Knows no file format.
"""

import itertools
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from vilam3.data.study import FloatArray, Volume
from vilam3.errors import DataError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
LONGEST_VOXEL_MM = 1_000.0
SHORTEST_VOXEL_MM = 1e-6
FARTHEST_MM = 1e6
FLATTEST = 1e-3  # least volume of a voxel over that of the box with its edge lengths: below, axes coincide
GRID_TOLERANCE = 0.1  # of a voxel, at the corners: two grids closer than this are one


def reorient(voxels_IJK: NDArray[Any], affine_RAS: FloatArray, *, axes: str) -> tuple[NDArray[Any], FloatArray]:
    """Flip and permute a volume to the closest order of `axes`, such as ``RAS``; the affine follows.

    Returns:
        The volume (a view where possible) and its affine, still index to RAS millimetres.
    """
    now = nib.orientations.io_orientation(affine_RAS)
    change = nib.orientations.ornt_transform(now, nib.orientations.axcodes2ornt(axes))
    turned = nib.orientations.apply_orientation(voxels_IJK, change)
    return turned, affine_RAS @ nib.orientations.inv_ornt_aff(change, voxels_IJK.shape)


def ras_volume(voxels_IJK: NDArray[np.float32], affine_RAS: FloatArray, *, sequence: str = "") -> Volume:
    """A `Volume` in RAS order that remembers the axes it was stored in; the affine must have passed `check_affine`."""
    stored = "".join(nib.orientations.aff2axcodes(affine_RAS))
    voxels_XYZ, affine = reorient(voxels_IJK, affine_RAS, axes="RAS")
    return Volume(voxels_XYZ=np.ascontiguousarray(voxels_XYZ), affine_RAS=affine, sequence=sequence, stored_axes=stored)


def check_affine(affine: FloatArray, *, where: str) -> None:
    """Refuse a geometry no patient has.

    Raises:
        DataError: a number is not finite or a million millimetres away, a voxel edge is shorter than a nanometre
            or longer than a metre, or two axes coincide.
    """
    if not np.isfinite(affine).all() or np.abs(affine).max() > FARTHEST_MM:
        raise DataError(f"{where}: its geometry holds a number that is not finite or absurdly large; export it again")
    edges_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if edges_mm.min() < SHORTEST_VOXEL_MM or edges_mm.max() > LONGEST_VOXEL_MM:
        sizes = " x ".join(f"{edge:g}" for edge in edges_mm)
        raise DataError(f"{where}: voxels of {sizes} mm; each edge must be above 0 and at most 1000; export it again")
    if abs(np.linalg.det(affine[:3, :3])) < FLATTEST * edges_mm.prod():
        raise DataError(f"{where}: two axes of its geometry point the same way; export it again")


def same_grid(first: Volume, second: Volume) -> bool:
    """Whether two volumes have one shape and their corners coincide within a tenth of a voxel."""
    shape = first.voxels_XYZ.shape
    if shape != second.voxels_XYZ.shape:
        return False
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in shape))])
    apart_mm = np.linalg.norm(((first.affine_RAS - second.affine_RAS) @ corners.T)[:3], axis=0)
    return bool(apart_mm.max() < GRID_TOLERANCE * min(first.spacing_mm))

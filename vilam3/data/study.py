"""What an expert and the vision tower look at: volumes with geometry, or a radiograph.

Volumes are always held in RAS orientation with the affine that maps voxel indices to RAS millimetres; readers
reorient, writers reorient back. Letters: X right, Y anterior, Z superior; H rows, W columns.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilam3.data.sample import Modality

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Volume:
    """A scalar 3-D image.

    Attributes:
        voxels_XYZ: Intensities (HU for CT), RAS axis order.
        affine_RAS: 4x4, voxel index to RAS millimetres; its rotation part may still be oblique.
        sequence: MR sequence (`t1c`, `t1`, `t2`, `flair`) or empty.
    """

    voxels_XYZ: FloatArray
    affine_RAS: FloatArray
    sequence: str = ""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along X, Y and Z in millimetres."""
        x, y, z = np.linalg.norm(self.affine_RAS[:3, :3], axis=0)
        return float(x), float(y), float(z)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """One patient's images of one examination, as far as an answer needs them.

    Attributes:
        digest: SHA-256 of the content (pixels and geometry), the only name caches may use.
        modality: Decided by the reader from DICOM or the file name, or by the caller.
        volumes: CT: one. MRI: one, or the four sequences in the order t1c, t1, t2, flair. Same grid.
        radiograph_HW: 2-D studies: grey levels, uint8 or uint16, bright is dense; else None.
        picture_HWC: 2-D studies in colour: RGB, uint8, beside their grey levels; else None.
        series: Pseudonymous series name for provenance (a digest of the series UID, or ``series-1``).
        warnings: What the reader noticed, such as missing slices; shown to the reader of the answer.
    """

    digest: str
    modality: Modality
    volumes: tuple[Volume, ...] = ()
    radiograph_HW: NDArray[np.uint8] | NDArray[np.uint16] | None = None
    picture_HWC: NDArray[np.uint8] | None = None
    series: str = "series-1"
    warnings: tuple[str, ...] = field(default=())

    @property
    def num_slices(self) -> int:
        """Number of axial slices; 1 for a 2-D study."""
        return int(self.volumes[0].voxels_XYZ.shape[2]) if self.volumes else 1

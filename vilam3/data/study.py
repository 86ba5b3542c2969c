"""What an expert and the vision tower look at: volumes with geometry, or a radiograph.

Volumes are always held in RAS orientation with the affine that maps voxel indices to RAS millimetres; readers
reorient, writers reorient back. Letters: X right, Y anterior, Z superior; H rows, W columns.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vilam3.data.sample import Modality

if TYPE_CHECKING:
    from vilam3.data.dicom_source import DicomSource

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Volume:
    """A scalar 3-D image.

    Attributes:
        voxels_XYZ: Intensities (HU for CT), RAS axis order.
        affine_RAS: 4x4, voxel index to RAS millimetres; its rotation part may still be oblique.
        sequence: MR sequence (`t1c`, `t1`, `t2`, `flair`) or empty.
        stored_axes: Axis codes in which the source stored the voxels, so that a writer can give a mask back in them.
    """

    voxels_XYZ: FloatArray
    affine_RAS: FloatArray
    sequence: str = ""
    stored_axes: str = "RAS"

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along X, Y and Z in millimetres."""
        x, y, z = np.linalg.norm(self.affine_RAS[:3, :3], axis=0)
        return float(x), float(y), float(z)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """One patient's images of one examination, as far as an answer needs them.

    Attributes:
        digest: SHA-256 of the content (pixels, geometry, modality, sequences), the only name caches may use.
        modality: Decided by the reader from DICOM or the file name, or by the caller.
        volumes: CT: one. MRI: one, or the four sequences in the order t1c, t1, t2, flair. Same grid.
        radiograph_HW: 2-D studies: grey levels, uint8 or uint16, bright is dense; else None.
        picture_HWC: 2-D studies in colour: RGB, uint8, beside their grey levels; else None.
        series: Pseudonymous series name for provenance (a digest of the series UID, or ``series-1``).
        warnings: What the reader noticed, such as missing slices; shown to the reader of the answer.
        reference: Where other processes find it (see `vilam3.shelf`); empty while it is only in this one's memory.
        source: The DICOM series of the first volume, for results that go back to a PACS; None for other files.
    """

    digest: str
    modality: Modality
    volumes: tuple[Volume, ...] = ()
    radiograph_HW: NDArray[np.uint8] | NDArray[np.uint16] | None = None
    picture_HWC: NDArray[np.uint8] | None = None
    series: str = "series-1"
    warnings: tuple[str, ...] = field(default=())
    reference: str = ""
    source: "DicomSource | None" = field(default=None, repr=False)

    @property
    def num_slices(self) -> int:
        """Number of axial slices; 1 for a 2-D study."""
        return int(self.volumes[0].voxels_XYZ.shape[2]) if self.volumes else 1


def study_of(
    *,
    modality: Modality,
    volumes: Sequence[Volume] = (),
    radiograph_HW: NDArray[np.uint8] | NDArray[np.uint16] | None = None,
    picture_HWC: NDArray[np.uint8] | None = None,
    series: str = "series-1",
    warnings: Sequence[str] = (),
    source: "DicomSource | None" = None,
) -> Study:
    """A study named by the digest of its content, which `source` is no part of."""
    pictures = [picture for picture in (radiograph_HW, picture_HWC) if picture is not None]
    return Study(
        digest=content_digest(modality=modality, volumes=volumes, pictures=pictures),
        modality=modality,
        volumes=tuple(volumes),
        radiograph_HW=radiograph_HW,
        picture_HWC=picture_HWC,
        series=series,
        warnings=tuple(warnings),
        source=source,
    )


def content_digest(
    *,
    modality: Modality,
    volumes: Sequence[Volume] = (),
    pictures: Sequence[NDArray[np.uint8] | NDArray[np.uint16]] = (),
) -> str:
    """SHA-256 of what an answer depends on; the same for one content whatever its files, series or patient are called.

    Args:
        modality: It decides the window and the experts.
        volumes: In study order; each with its sequence, geometry and voxels.
        pictures: Grey levels and, where there is colour, RGB.
    """
    digest = hashlib.sha256(f"study\0{modality}\0".encode())
    for volume in volumes:
        digest.update(f"{volume.sequence}\0".encode())
        _update(digest, np.asarray(volume.affine_RAS, dtype="<f8") + 0.0)  # -0.0 becomes 0.0
        _update(digest, volume.voxels_XYZ)
    for picture in pictures:
        _update(digest, picture)
    return digest.hexdigest()


def _update(digest: "hashlib._Hash", array: NDArray[Any]) -> None:
    little = array.dtype.newbyteorder("<")
    digest.update(f"{little.str}{array.shape}\0".encode())
    digest.update(np.ascontiguousarray(array, dtype=little).data)

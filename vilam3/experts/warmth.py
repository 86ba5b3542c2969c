"""Small studies on which an expert runs once before it is called ready; what it finds in them is thrown away."""

from collections.abc import Sequence

import numpy as np

from vilam3.data.sample import Modality
from vilam3.data.study import Study, Volume, study_of

SIZE_XYZ = (48, 48, 32)
SPACING_MM = 1.5
AIR_HU = -1000.0
SIDE_PX = 64


def volumes_study(modality: Modality, *, sequences: Sequence[str] = ("",)) -> Study:
    """A block of noisy tissue in air, once for each sequence."""
    generator = np.random.default_rng(0)
    affine_RAS = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    volumes = []
    for sequence in sequences:
        voxels_XYZ = np.full(SIZE_XYZ, AIR_HU if modality == "CT" else 0.0, dtype=np.float32)
        inside = tuple(slice(size // 6, size - size // 6) for size in SIZE_XYZ)
        voxels_XYZ[inside] = generator.normal(60.0, 20.0, voxels_XYZ[inside].shape)
        volumes.append(Volume(voxels_XYZ=voxels_XYZ, affine_RAS=affine_RAS, sequence=sequence))
    return study_of(modality=modality, volumes=volumes)


def radiograph_study() -> Study:
    """A radiograph of noise."""
    pixels_HW = np.random.default_rng(0).integers(0, 256, (SIDE_PX, SIDE_PX), dtype=np.uint8)
    return study_of(modality="CXR", radiograph_HW=pixels_HW)

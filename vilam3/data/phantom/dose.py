"""What a CT would look like at a lower dose: fewer photons reach the detector, and their count is Poisson's.

Each axial slice is projected, photons are counted along each ray, and what the counts add is projected back; the slice
itself goes through neither, so that its edges stay as they were.
"""

import numpy as np
from numpy.typing import NDArray
from skimage.transform import iradon, radon

from vilam3.data.study import Volume

WATER_PER_MM = 0.019  # attenuation of water at about 70 keV
NUM_ANGLES = 90
FEWEST_PHOTONS = 1.0  # where none arrive, as scanners' own corrections assume


def low_dose(volume: Volume, *, photons: float, rng: np.random.Generator) -> Volume:
    """The volume with the quantum noise of so many photons for each ray.

    Args:
        volume: HU; its pixels are taken for square.
        photons: That leave the source on each ray; 1e5 is a routine scan's order of magnitude, 1e4 a tenth of it.
        rng: Of the counts.
    """
    mm = volume.spacing_mm[0]
    noisy_XYZ = np.array(volume.voxels_XYZ, dtype=np.float32)
    for index in range(noisy_XYZ.shape[2]):
        noisy_XYZ[:, :, index] += _noise_hu(noisy_XYZ[:, :, index], mm=mm, photons=photons, rng=rng)
    return Volume(
        voxels_XYZ=noisy_XYZ,
        affine_RAS=volume.affine_RAS,
        sequence=volume.sequence,
        stored_axes=volume.stored_axes,
    )


def _noise_hu(
    slice_XY: NDArray[np.float32], *, mm: float, photons: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    side = max(slice_XY.shape)
    padded = np.zeros((side, side))
    padded[: slice_XY.shape[0], : slice_XY.shape[1]] = np.maximum(slice_XY / 1000.0 + 1.0, 0.0) * WATER_PER_MM
    angles = np.linspace(0.0, 180.0, NUM_ANGLES, endpoint=False)
    rays = radon(padded, theta=angles, circle=False) * mm
    counted = np.maximum(rng.poisson(photons * np.exp(-rays)), FEWEST_PHOTONS)
    added = -np.log(counted / photons) - rays
    back = iradon(added / mm, theta=angles, circle=False, output_size=side, filter_name="hann")
    noise: NDArray[np.float32] = back[: slice_XY.shape[0], : slice_XY.shape[1]].astype(np.float32)
    return noise / WATER_PER_MM * 1000.0

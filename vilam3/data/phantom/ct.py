"""Abdominal CT with liver, spleen, pancreas, kidneys, spine, and tumours of liver and pancreas.

Label ids are VISTA-3D's: 1 liver, 3 spleen, 4 pancreas, 5 right kidney, 14 left kidney, 24 pancreatic tumor,
26 hepatic tumor. RAS: x grows towards the patient's right.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vilam3.data.phantom.settings import PhantomSettings
from vilam3.data.phantom.shapes import Grid, Mask, Point, noise
from vilam3.data.study import Volume

SHAPE_XYZ = (64, 64, 32)
SPACING_MM = (5.0, 5.0, 6.0)
LIVER, SPLEEN, PANCREAS, RIGHT_KIDNEY, LEFT_KIDNEY = 1, 3, 4, 5, 14
PANCREATIC_TUMOR, HEPATIC_TUMOR = 24, 26
PREVALENCE = 0.5
HOSTS = {"hepatic tumor": (LIVER, HEPATIC_TUMOR), "pancreatic tumor": (PANCREAS, PANCREATIC_TUMOR)}
AIR_HU, FAT_HU, BONE_HU = -1000.0, -90.0, 350.0
ORGANS: tuple[tuple[int, float, Point, Point], ...] = (
    (LIVER, 95.0, (62.0, 18.0, 12.0), (62.0, 56.0, 58.0)),
    (SPLEEN, 85.0, (-92.0, -18.0, 22.0), (26.0, 36.0, 36.0)),
    (PANCREAS, 80.0, (-34.0, 24.0, -18.0), (48.0, 26.0, 30.0)),
    (RIGHT_KIDNEY, 110.0, (58.0, -58.0, -40.0), (22.0, 22.0, 34.0)),
    (LEFT_KIDNEY, 110.0, (-60.0, -58.0, -34.0), (22.0, 22.0, 34.0)),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CtPhantom:
    """One patient.

    Attributes:
        volume: HU.
        ids_XYZ: Ground truth, VISTA-3D ids.
        contrast_hu: Tumour name to how much darker than its organ it is; absent tumours are not listed.
        noise_hu: Standard deviation of the noise.
    """

    volume: Volume
    ids_XYZ: NDArray[np.uint8]
    contrast_hu: dict[str, float]
    noise_hu: float


def make_ct(rng: np.random.Generator, settings: PhantomSettings) -> CtPhantom:
    """Draw one patient; each tumour is there with probability one half."""
    grid = Grid(SHAPE_XYZ, SPACING_MM)
    hu, ids = _anatomy(rng, grid)
    contrasts: dict[str, float] = {}
    for name, (organ, tumor) in HOSTS.items():
        radius_mm = float(rng.uniform(*settings.ct_radius_mm))
        contrast_hu = float(rng.uniform(*settings.ct_contrast_hu))
        place = grid.blob(rng, _inside(rng, grid, ids == organ, radius_mm), radius_mm) & (ids == organ)
        if rng.random() < PREVALENCE:
            hu[place] -= contrast_hu
            ids[place] = tumor
            contrasts[name] = contrast_hu
    sigma_hu = float(rng.uniform(*settings.ct_noise_hu))
    noisy = hu + noise(rng, SHAPE_XYZ, sigma=sigma_hu)
    voxels = np.clip(np.rint(noisy), -1024, 3071).astype(np.float32)
    volume = Volume(voxels_XYZ=voxels, affine_RAS=grid.affine())
    return CtPhantom(volume=volume, ids_XYZ=ids, contrast_hu=contrasts, noise_hu=sigma_hu)


def _anatomy(rng: np.random.Generator, grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    hu = np.full(grid.shape, AIR_HU, np.float32)
    ids = np.zeros(grid.shape, np.uint8)
    girth = rng.uniform(0.94, 1.04)
    body = grid.ellipsoid((0.0, 0.0, 0.0), (145.0 * girth, 112.0 * girth, 1e6))
    inner = grid.ellipsoid((0.0, 0.0, 0.0), (132.0 * girth, 99.0 * girth, 1e6))
    hu[body] = FAT_HU
    hu[inner] = 20.0
    shift = rng.uniform(-5, 5, 3)
    for label, level_hu, centre, radii in ORGANS:
        jitter = rng.uniform(-4, 4, 3) + shift
        scale = rng.uniform(0.93, 1.07, 3)
        centre_mm = tuple(float(c + j) for c, j in zip(centre, jitter, strict=True))
        radii_mm = tuple(float(r * s) for r, s in zip(radii, scale, strict=True))
        organ = grid.ellipsoid(centre_mm, radii_mm) & inner & (ids == 0)
        hu[organ] = level_hu + rng.uniform(-8, 8)
        ids[organ] = label
    spine = grid.ellipsoid((0.0, -78.0, 0.0), (20.0, 20.0, 1e6))
    hu[spine] = BONE_HU
    ids[spine] = 0
    return hu, ids


def _inside(rng: np.random.Generator, grid: Grid, organ: Mask, radius_mm: float) -> Point:
    """A point of the organ whose distance to the organ's own border is about the radius, where there is one."""
    margin = [max(1, int(radius_mm / step * 0.7)) for step in grid.spacing_mm]
    core = organ.copy()
    for axis, reach in enumerate(margin):
        core &= np.roll(organ, reach, axis) & np.roll(organ, -reach, axis)
    candidates = np.argwhere(core if core.any() else organ)
    index = candidates[rng.integers(len(candidates))]
    return tuple(
        float((i - (size - 1) / 2) * step) for i, size, step in zip(index, grid.shape, grid.spacing_mm, strict=True)
    )

"""Brain MRI of four sequences with gliomas in BraTS labels: 1 necrotic core, 2 edema, 4 enhancing tumour.

A high-grade glioma has an enhancing rim around a necrotic core inside the edema; a low-grade one has a solid core
that does not enhance, and a brain without a tumour has none of them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vilam3.data.phantom.settings import PhantomSettings
from vilam3.data.phantom.shapes import Grid, noise, smooth
from vilam3.data.study import Volume

SHAPE_XYZ = (64, 64, 24)
SPACING_MM = (3.0, 3.0, 5.0)
CORE, EDEMA, ENHANCING = 1, 2, 4
HEALTHY_SHARE = 0.2
FOLDED_CORTEX_LEVEL = 0.72  # beyond this the folded level set is grey matter
SEQUENCES = ("t1c", "t1", "t2", "flair")
Grade = Literal["none", "lower", "high"]

# Intensity by tissue, one number for each of SEQUENCES, in units of white matter.
WHITE = (1.0, 1.0, 0.7, 0.8)
GREY = (0.8, 0.8, 0.9, 0.9)
FLUID = (0.3, 0.3, 1.5, 0.3)
EDEMA_LEVEL = (0.78, 0.78, 1.15, 1.25)
CORE_LEVEL = (0.62, 0.62, 1.2, 1.05)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MriPhantom:
    """One patient.

    Attributes:
        volumes: In the order of SEQUENCES, on one grid.
        ids_XYZ: Ground truth, BraTS ids.
        grade: What there is.
        enhancement: Brightness of the rim over white matter, 0 where there is none.
        noise: Standard deviation of the noise in units of white matter.
    """

    volumes: tuple[Volume, ...]
    ids_XYZ: NDArray[np.uint8]
    grade: Grade
    enhancement: float
    noise: float


def make_mri(rng: np.random.Generator, settings: PhantomSettings) -> MriPhantom:
    """Draw one patient: one fifth without a tumour, the rest half lower and half high grade."""
    grid = Grid(SHAPE_XYZ, SPACING_MM)
    levels, brain, white = _anatomy(rng, grid)
    grade: Grade = "none" if rng.random() < HEALTHY_SHARE else ("high", "lower")[int(rng.integers(2))]
    enhancement = float(rng.uniform(*settings.mri_enhancement))
    ids = _tumor(rng, grid, brain & white, grade)
    for index in range(len(SEQUENCES)):
        rim = 1.0 + enhancement if index == 0 else CORE_LEVEL[index] * 1.02
        levels[index][ids == EDEMA] = EDEMA_LEVEL[index]
        levels[index][ids == CORE] = CORE_LEVEL[index]
        levels[index][ids == ENHANCING] = rim
    sigma = float(rng.uniform(*settings.mri_noise))
    volumes = tuple(
        Volume(
            voxels_XYZ=_scan(rng, level, brain, sigma),
            affine_RAS=grid.affine(),
            sequence=name,
        )
        for name, level in zip(SEQUENCES, levels, strict=True)
    )
    return MriPhantom(
        volumes=volumes,
        ids_XYZ=ids,
        grade=grade,
        enhancement=enhancement if grade == "high" else 0.0,
        noise=sigma,
    )


def _anatomy(
    rng: np.random.Generator, grid: Grid
) -> tuple[list[NDArray[np.float32]], NDArray[np.bool_], NDArray[np.bool_]]:
    size = rng.uniform(0.95, 1.05, 3)
    radii = (70.0 * size[0], 85.0 * size[1], 58.0 * size[2])
    brain = grid.ellipsoid((0.0, 0.0, 0.0), radii)
    folds = smooth(rng.standard_normal(grid.shape).astype(np.float32), passes=2)
    cortex = grid.level((0.0, 0.0, 0.0), radii) + 0.14 * folds / float(folds.std()) > FOLDED_CORTEX_LEVEL
    left, right = (grid.ellipsoid((x_mm, 4.0, 4.0), (6.0, 24.0, 16.0)) for x_mm in (-9.0, 9.0))
    ventricles = left | right
    levels = []
    for index in range(len(SEQUENCES)):
        level = np.zeros(grid.shape, np.float32)
        level[brain] = WHITE[index]
        level[brain & cortex] = GREY[index]
        level[brain & ventricles] = FLUID[index]
        levels.append(level)
    return levels, brain, ~cortex & ~ventricles


def _tumor(rng: np.random.Generator, grid: Grid, white: NDArray[np.bool_], grade: Grade) -> NDArray[np.uint8]:
    ids = np.zeros(grid.shape, np.uint8)
    side = (-1.0, 1.0)[int(rng.integers(2))]
    centre = (side * rng.uniform(24, 38), rng.uniform(-36, 40), rng.uniform(-18, 22))
    edema_mm = float(rng.uniform(20, 27))
    core_mm = float(edema_mm * rng.uniform(0.58, 0.72))
    edema = grid.blob(rng, centre, edema_mm)
    core = grid.blob(rng, centre, core_mm)
    heart = grid.blob(rng, centre, core_mm * 0.58)
    if grade == "none":
        return ids
    inside = grid.ellipsoid((0.0, 0.0, 0.0), (68.0, 82.0, 56.0))
    ids[edema & inside & (white | core)] = EDEMA
    ids[core & inside] = CORE
    if grade == "high":
        ids[core & ~heart & inside] = ENHANCING
    return ids


def _scan(
    rng: np.random.Generator, level: NDArray[np.float32], brain: NDArray[np.bool_], sigma: float
) -> NDArray[np.float32]:
    gain = rng.uniform(400, 900)
    scanned = np.abs(level + noise(rng, level.shape, sigma=sigma)) * brain
    return np.rint(scanned * gain).astype(np.float32)

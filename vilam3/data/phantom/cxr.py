"""Frontal chest radiographs with findings; image left is the patient's right, as radiologists look at them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vilam3.data.phantom.settings import PhantomSettings
from vilam3.data.phantom.shapes import Grid, noise, smooth

SHAPE_HW = (128, 128)
PIXEL_MM = 2.8
FINDINGS = ("Cardiomegaly", "Effusion", "Pneumothorax", "Consolidation", "Nodule")
PREVALENCE = 0.5
APEX_ROW_MM = 20.0  # air collects above this row


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CxrPhantom:
    """One radiograph.

    Attributes:
        grey_HW: uint8.
        findings: Every one of FINDINGS, present or not.
        contrast: Visibility of the findings.
        noise: Standard deviation of the noise in grey levels.
    """

    grey_HW: NDArray[np.uint8]
    findings: dict[str, bool]
    contrast: float
    noise: float


def make_cxr(rng: np.random.Generator, settings: PhantomSettings) -> CxrPhantom:
    """Draw one radiograph; each finding is there with probability PREVALENCE."""
    findings = {name: bool(rng.random() < PREVALENCE) for name in FINDINGS}
    contrast = float(rng.uniform(*settings.cxr_contrast))
    sigma = float(rng.uniform(*settings.cxr_noise))
    grid = Grid(SHAPE_HW, (PIXEL_MM, PIXEL_MM))
    grey = _chest(rng, grid, findings, contrast)
    grey = smooth(grey, passes=1) + noise(rng, SHAPE_HW, sigma=sigma) + _ribs(rng, grid)
    pixels = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return CxrPhantom(grey_HW=pixels, findings=findings, contrast=contrast, noise=sigma)


def _chest(rng: np.random.Generator, grid: Grid, findings: dict[str, bool], contrast: float) -> NDArray[np.float32]:
    jitter = rng.uniform(-6, 6, 2)
    lungs = []
    grey = np.full(grid.shape, 25.0, np.float32)
    grey[grid.ellipsoid((10.0, 0.0), (190.0, 165.0))] = 175.0
    for side in (-1.0, 1.0):
        centre = (-8.0 + jitter[0], side * 66.0 + jitter[1])
        radii = (112.0 * rng.uniform(0.95, 1.05), 47.0 * rng.uniform(0.95, 1.05))
        lung = grid.ellipsoid(centre, radii) & np.broadcast_to(grid.axes_mm[0] < 88.0 + jitter[0], grid.shape)
        grey[lung] = 75.0
        lungs.append((lung, centre, radii))
    width_mm = 60.0 + rng.uniform(-4, 4) + (14.0 + 8.0 * contrast) * findings["Cardiomegaly"]
    heart = grid.ellipsoid((48.0 + jitter[0], 18.0 + jitter[1]), (50.0, width_mm))
    grey[heart] = np.maximum(grey[heart], 170.0)
    for name, draw in (("Effusion", _effusion), ("Pneumothorax", _pneumothorax)):
        lung, centre, radii = lungs[int(rng.integers(2))]
        extent = rng.uniform(0.0, 1.0)
        if findings[name]:
            draw(grey, grid, lung & ~heart, centre, radii, contrast, extent)
    for name, radius_mm, amount in (("Consolidation", 34.0, 52.0), ("Nodule", 13.0, 72.0)):
        lung, centre, _ = lungs[int(rng.integers(2))]
        spot = (centre[0] + rng.uniform(-60, 45), centre[1] + rng.uniform(-20, 20))
        soft = np.exp(-1.2 * grid.level(spot, (radius_mm, radius_mm)) ** 2)
        if findings[name]:
            grey += np.where(lung, soft * amount * contrast, 0.0).astype(np.float32)
    return grey


def _effusion(
    grey: NDArray[np.float32],
    grid: Grid,
    lung: NDArray[np.bool_],
    centre: tuple[float, float],
    radii: tuple[float, float],
    contrast: float,
    extent: float,
) -> None:
    """Fluid at the base: bright below a meniscus that climbs towards the chest wall."""
    rows, columns = grid.axes_mm
    wall = np.abs(columns - centre[1]) / radii[1]
    surface = 88.0 - (28.0 + 14.0 * extent) - 14.0 * wall
    fluid = lung & np.broadcast_to(rows > surface, grid.shape)
    grey[fluid] += 75.0 * contrast


def _pneumothorax(
    grey: NDArray[np.float32],
    grid: Grid,
    lung: NDArray[np.bool_],
    centre: tuple[float, float],
    radii: tuple[float, float],
    contrast: float,
    extent: float,
) -> None:
    """Air between lung and wall: a dark rim at the apex, the collapsed lung a little brighter."""
    shrunk = grid.ellipsoid((centre[0] + 16.0 + 8.0 * extent, centre[1]), (radii[0] * 0.86, radii[1] * 0.78))
    grey[lung & ~shrunk & np.broadcast_to(grid.axes_mm[0] < APEX_ROW_MM, grid.shape)] -= 38.0 * contrast
    grey[lung & shrunk] += 8.0 * contrast


def _ribs(rng: np.random.Generator, grid: Grid) -> NDArray[np.float32]:
    rows, columns = grid.axes_mm
    phase = rng.uniform(0, 2 * np.pi)
    arcs = np.cos((rows + 0.0016 * columns**2) / 30.0 * 2 * np.pi + phase)
    return (np.clip(arcs, 0.3, 1.0) - 0.3).astype(np.float32) * 18.0

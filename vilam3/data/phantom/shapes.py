"""Ellipsoids, blobs and correlated noise on a voxel grid, all in millimetres."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Field = NDArray[np.float32]
Point = tuple[float, ...]


class Grid:
    """A regular grid centred on the origin, any number of axes."""

    def __init__(self, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> None:
        """Lay out coordinates once; every shape is drawn on them."""
        self.shape = shape
        self.spacing_mm = spacing_mm
        centred = [
            ((np.arange(size) - (size - 1) / 2) * step).astype(np.float32)
            for size, step in zip(shape, spacing_mm, strict=True)
        ]
        self.axes_mm: list[NDArray[Any]] = list(np.meshgrid(*centred, indexing="ij", sparse=True))

    def ellipsoid(self, centre_mm: Point, radii_mm: Point) -> Mask:
        """All points inside an axis-aligned ellipsoid."""
        return self.level(centre_mm, radii_mm) <= 1.0

    def level(self, centre_mm: Point, radii_mm: Point) -> Field:
        """Squared normalised distance: 1 on the surface, below 1 inside."""
        total = np.zeros((1,) * len(self.shape), np.float32)
        for axis, centre, radius in zip(self.axes_mm, centre_mm, radii_mm, strict=True):
            total = total + ((axis - np.float32(centre)) / np.float32(radius)) ** 2
        return total

    def blob(self, rng: np.random.Generator, centre_mm: Point, radius_mm: float) -> Mask:
        """A ball with a gently irregular surface."""
        radii = tuple(float(radius_mm * rng.uniform(0.85, 1.15)) for _ in self.shape)
        wobble = smooth(rng.standard_normal(self.shape).astype(np.float32), passes=3)
        wobble /= max(float(wobble.std()), 1e-6)
        return self.level(centre_mm, radii) * (1 + 0.15 * wobble) <= 1.0

    def affine(self) -> NDArray[np.float64]:
        """Voxel index to RAS millimetres, the grid's centre at the origin."""
        affine = np.diag([*self.spacing_mm, 1.0])
        affine[: len(self.shape), -1] = [
            -(size - 1) / 2 * step for size, step in zip(self.shape, self.spacing_mm, strict=True)
        ]
        return affine


def smooth(field: Field, *, passes: int) -> Field:
    """Blur with the binomial kernel (1 2 1)/4 along every axis, edges repeated."""
    blurred = field
    for _ in range(passes):
        for axis in range(field.ndim):
            lines = np.moveaxis(blurred, axis, 0)
            padded = np.concatenate([lines[:1], lines, lines[-1:]])
            kept = padded[:-2] + padded[2:]
            kept += 2 * lines
            kept /= 4
            blurred = np.moveaxis(kept, 0, axis)
    return blurred


def noise(rng: np.random.Generator, shape: tuple[int, ...], *, sigma: float) -> Field:
    """Zero-mean noise of the given standard deviation, slightly correlated as reconstructed images are."""
    raw = smooth(rng.standard_normal(shape).astype(np.float32), passes=1)
    return raw * np.float32(sigma / float(raw.std()))

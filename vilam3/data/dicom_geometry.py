"""Slices of one series put in order along their normal, and the affine that follows; speaks DICOM's LPS throughout.

Knows tags only as numbers already read. A slice's first axis runs along its rows (column index), its second along its
columns (row index).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vilam3.data.study import FloatArray
from vilam3.errors import DataError

UNIT_TOLERANCE = 1e-2
PARALLEL_COSINE = 0.9999  # 0.8 degrees
SAME_PLACE_MM = 1e-3
SAME_PLACE_STEP = 0.1  # of the usual step
MOST_NAMED = 10  # missing slices listed in a warning
STEP_TOLERANCE = 0.05  # of a step: beyond, spacing is irregular
TILT_REPORTED_DEGREES = 0.2
IN_PLANE_TOLERANCE = 0.5  # of a pixel


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One 2-D frame and where it lies.

    Attributes:
        file: Index of its file in the series.
        frame: Index of the frame in the file.
        rows: Number of rows.
        columns: Number of columns.
        position_mm: Centre of the first pixel, LPS.
        orientation: Direction of a row, then of a column, LPS.
        spacing_mm: Between rows, then between columns.
        thickness_mm: Distance to the next slice as the file states it, if it does.
        slope: Factor from stored to real values.
        intercept: What is then added.
    """

    file: int
    frame: int
    rows: int
    columns: int
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    thickness_mm: float | None
    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """Slices on a regular grid.

    Attributes:
        slices: In order along the normal.
        places: Index of each on the third axis; gaps are missing slices.
        affine_LPS: Column, row and slice index to LPS millimetres.
        warnings: What is odd about the spacing.
    """

    slices: tuple[Slice, ...]
    places: tuple[int, ...]
    affine_LPS: FloatArray
    warnings: tuple[str, ...]

    @property
    def depth(self) -> int:
        """Slices of the grid, missing ones counted."""
        return self.places[-1] + 1


def stack(slices: Sequence[Slice], *, where: str) -> Stack:
    """Order slices by their place on the normal and fit a regular grid.

    Raises:
        DataError: they differ in size, spacing or direction, or several lie at one place.
    """
    row, column, normal = _directions(slices, where)
    positions = np.array([piece.position_mm for piece in slices])
    order = np.argsort(positions @ normal, kind="stable")
    ordered = tuple(slices[index] for index in order)
    positions = positions[order]
    warnings: list[str] = []
    if len(ordered) == 1:
        places: tuple[int, ...] = (0,)
        step = normal * _thickness(ordered[0], warnings)
    else:
        places = _places(positions @ normal, warnings, where)
        step = (positions[-1] - positions[0]) / places[-1]
        _report_tilt(step, normal, warnings)
        _report_shift(positions, places, step, ordered[0].spacing_mm, warnings)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * ordered[0].spacing_mm[1], column * ordered[0].spacing_mm[0]
    affine[:3, 2], affine[:3, 3] = step, positions[0]
    return Stack(slices=ordered, places=places, affine_LPS=affine, warnings=tuple(warnings))


def _directions(slices: Sequence[Slice], where: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    first = slices[0]
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1.0) for length in lengths) > UNIT_TOLERANCE or abs(row @ column) > UNIT_TOLERANCE:
        raise DataError(f"{where}: ImageOrientationPatient is not two perpendicular unit vectors; export it again")
    if min(first.spacing_mm) <= 0:
        raise DataError(f"{where}: PixelSpacing is not above 0 mm; export it again")
    row, column = row / lengths[0], column / lengths[1]
    normal = np.cross(row, column)
    for other in slices[1:]:
        turned = np.cross(other.orientation[:3], other.orientation[3:])
        if turned @ normal < PARALLEL_COSINE or np.dot(other.orientation[:3], row) < PARALLEL_COSINE:
            raise DataError(f"{where}: slices of the series are not parallel; give one stack without its localizers")
        if (other.rows, other.columns) != (first.rows, first.columns):
            raise DataError(f"{where}: slices of the series differ in rows or columns; give one stack")
        if not np.allclose(other.spacing_mm, first.spacing_mm, rtol=1e-3, atol=0):
            raise DataError(f"{where}: slices of the series differ in PixelSpacing; give one stack")
    return row, column, normal / np.linalg.norm(normal)


def _thickness(only: Slice, warnings: list[str]) -> float:
    if only.thickness_mm is not None and only.thickness_mm > 0:
        return only.thickness_mm
    warnings.append("the file does not say how thick the slice is; 1 mm is assumed, so volumes in ml are not reliable")
    return 1.0


def _places(heights_mm: FloatArray, warnings: list[str], where: str) -> tuple[int, ...]:
    """Index of each slice on a regular grid; missing and irregular ones are reported."""
    gaps_mm = np.diff(heights_mm)
    same_place = gaps_mm < max(SAME_PLACE_MM, SAME_PLACE_STEP * float(np.median(gaps_mm)))
    if same_place.any():
        raise DataError(
            f"{where}: {int(same_place.sum())} slices of the series lie where another one does; "
            "it holds several phases, echoes or time points: give one of them"
        )
    step_mm = float(np.median(gaps_mm[gaps_mm < 1.5 * gaps_mm.min()]))
    steps = np.rint(gaps_mm / step_mm)
    if np.abs(gaps_mm - steps * step_mm).max() > STEP_TOLERANCE * step_mm:
        warnings.append(
            f"slices are {gaps_mm.min():.2f} to {gaps_mm.max():.2f} mm apart; they are treated as evenly spaced, "
            "so lengths and volumes are approximate"
        )
        return tuple(range(len(heights_mm)))
    places = (0, *(int(place) for place in np.cumsum(steps)))
    num_missing = places[-1] + 1 - len(places)
    if num_missing >= len(places):
        raise DataError(f"{where}: {num_missing} slices are missing and only {len(places)} are there; send all of them")
    if num_missing:
        absent = [str(place) for place in sorted(set(range(places[-1] + 1)) - set(places))]
        named = ", ".join([*absent[:MOST_NAMED], *(["..."] if num_missing > MOST_NAMED else [])])
        warnings.append(
            f"{num_missing} of {places[-1] + 1} slices are missing (counted from one end: {named}); "
            "they are filled in between their neighbours"
        )
    return places


def _report_tilt(step: FloatArray, normal: FloatArray, warnings: list[str]) -> None:
    cosine = float(np.clip(step @ normal / np.linalg.norm(step), -1.0, 1.0))
    degrees = float(np.degrees(np.arccos(cosine)))
    if degrees > TILT_REPORTED_DEGREES:
        warnings.append(f"slices are sheared by {degrees:.1f} degrees (gantry tilt); the geometry keeps it")


def _report_shift(
    positions: FloatArray,
    places: tuple[int, ...],
    step: FloatArray,
    spacing_mm: tuple[float, ...],
    warnings: list[str],
) -> None:
    """Sideways steps that no straight line explains; unevenness along the normal is reported elsewhere."""
    expected = positions[0] + np.outer(places, step)
    direction = step / np.linalg.norm(step)
    off = positions - expected
    aside_mm = np.linalg.norm(off - np.outer(off @ direction, direction), axis=1)
    if aside_mm.max() > IN_PLANE_TOLERANCE * min(spacing_mm):
        warnings.append(f"slices are shifted sideways by up to {aside_mm.max():.1f} mm against each other")

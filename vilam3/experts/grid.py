"""A network's own grid over a volume, read piece by piece, so that a resampled copy of the whole never exists.

Sizes, offsets and the way back are MONAI's own; along each axis they are those of a line of voxels, while the two grids
have parallel axes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vilam3.data.study import FloatArray, Volume

Box = tuple[slice, slice, slice]
Ids = NDArray[np.uint8]
Line = tuple[FloatArray, NDArray[np.intp]]
PARALLEL = 1e-6  # in voxels per voxel
SAME = 1e-3  # MONAI leaves a grid alone that differs by less
PLANES = 16  # read or written at a time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkGrid:
    """The grid.

    Attributes:
        coordinates: For each axis, where in the volume each index of the grid lies.
        nearest: For each axis, the index of the grid that each index of the volume takes its label from.
        low: First index kept, for each axis.
        high: First index no longer kept, for each axis.
    """

    coordinates: tuple[FloatArray, FloatArray, FloatArray]
    nearest: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]
    low: tuple[int, int, int]
    high: tuple[int, int, int]

    @classmethod
    def over(cls, volume: Volume, *, spacing: Any) -> Self | None:  # noqa: ANN401 - MONAI ships no types
        """The grid of voxels that MONAI's `Spacing` makes; None where it would not be parallel to the volume.

        Args:
            volume: RAS.
            spacing: The transform, bilinear; None leaves the volume's own grid.
        """
        shape = volume.voxels_XYZ.shape
        whole = np.arange(max(shape))
        sizes, step = (shape, np.eye(4)) if spacing is None else _resampled(volume, spacing)
        if np.abs(step[:3, :3] - np.diag(np.diag(step[:3, :3]))).max() > PARALLEL:
            return None
        if tuple(sizes) == shape and np.allclose(step, np.eye(4), atol=SAME):
            lines: list[Line] = [(whole[:size].astype(np.float64), whole[:size]) for size in shape]
        else:
            pairs = enumerate(zip(shape, sizes, strict=True))
            lines = [_line(old, new, step[axis, axis], step[axis, 3]) for axis, (old, new) in pairs]
        x, y, z = lines
        return cls(
            coordinates=(x[0], y[0], z[0]),
            nearest=(x[1], y[1], z[1]),
            low=(0, 0, 0),
            high=(len(x[0]), len(y[0]), len(z[0])),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        x, y, z = (high - low for low, high in zip(self.low, self.high, strict=True))
        return x, y, z

    def read(self, voxels_XYZ: FloatArray, box: Box) -> NDArray[np.float32]:
        """Intensities in a box of the grid, linear between voxels and constant beyond the outermost.

        Args:
            voxels_XYZ: Of the volume.
            box: Indices of the grid.
        """
        values: Any = voxels_XYZ
        places = [
            coordinates[low:][chosen] for coordinates, low, chosen in zip(self.coordinates, self.low, box, strict=True)
        ]
        ranges = [_range(place) for place in places]
        values = values[tuple(ranges)]
        for axis, (place, chosen) in enumerate(zip(places, ranges, strict=True)):
            values = _interpolated(values, place - chosen.start, axis)
        return np.ascontiguousarray(values, dtype=np.float32)

    def around(
        self, voxels_XYZ: FloatArray, is_inside: Callable[[NDArray[np.float32]], NDArray[np.bool_]], *, margin: int
    ) -> Self:
        """The part of the grid that holds what `is_inside`, with a margin; nothing where there is nothing."""
        shape = self.shape
        found = [np.zeros(size, dtype=bool) for size in shape]
        for first in range(0, shape[0], PLANES):
            planes = slice(first, min(first + PLANES, shape[0]))
            inside = is_inside(self.read(voxels_XYZ, (planes, slice(0, shape[1]), slice(0, shape[2]))))
            found[0][planes] = inside.any(axis=(1, 2))
            found[1] |= inside.any(axis=(0, 2))
            found[2] |= inside.any(axis=(0, 1))
        places = [np.flatnonzero(line) for line in found]
        if any(len(place) == 0 for place in places):
            return replace(self, high=self.low)
        low = [max(int(place[0]) - margin, 0) for place in places]
        high = [min(int(place[-1]) + margin + 1, size) for place, size in zip(places, shape, strict=True)]
        x, y, z = ((start + a, start + b) for start, a, b in zip(self.low, low, high, strict=True))
        return replace(self, low=(x[0], y[0], z[0]), high=(x[1], y[1], z[1]))

    def back(self, ids_XYZ: Ids) -> Ids:
        """Label ids on the grid as label ids of the volume; background where the grid does not reach."""
        lines = []
        for nearest, low, high in zip(self.nearest, self.low, self.high, strict=True):
            (inside,) = np.nonzero((nearest >= low) & (nearest < high))
            lines.append((inside, nearest[inside] - low))
        whole = tuple(len(nearest) for nearest in self.nearest)
        if ids_XYZ.shape == whole and all(np.array_equal(index, np.arange(len(index))) for _, index in lines):
            return ids_XYZ
        ids: Ids = np.zeros(whole, dtype=np.uint8)
        (to_x, from_x), (to_y, from_y), (to_z, from_z) = lines
        for to, index in zip(to_x, from_x, strict=True):
            ids[to][np.ix_(to_y, to_z)] = ids_XYZ[index][np.ix_(from_y, from_z)]
        return ids


def _resampled(volume: Volume, spacing: Any) -> tuple[Sequence[int], FloatArray]:  # noqa: ANN401 - likewise
    """Size of the new grid, and the map from its indices to those of the volume.

    The affine is rounded as a NIfTI file rounds it, since a bundle in its own way reads one: where axes are oblique,
    MONAI lays the new grid corner on corner or centre on centre by a comparison that this rounding decides.
    """
    import torch  # noqa: PLC0415 - seconds to import
    from monai.data import MetaTensor  # noqa: PLC0415 - likewise

    affine = np.asarray(volume.affine_RAS, dtype=np.float32).astype(np.float64)
    nothing = torch.zeros(1).expand(1, *volume.voxels_XYZ.shape)  # no memory behind it: nothing is resampled
    planned: Any = spacing(MetaTensor(nothing, affine=torch.as_tensor(affine)), lazy=True)
    sizes = [int(size) for size in planned.peek_pending_shape()]
    return sizes, np.linalg.solve(affine, np.asarray(planned.peek_pending_affine(), dtype=np.float64))


def _line(old: int, new: int, scale: float, offset: float) -> Line:
    """Along one axis: where the new grid's indices lie in the old one, and the way back as MONAI takes it."""
    import torch  # noqa: PLC0415 - seconds to import
    from monai.data import MetaTensor  # noqa: PLC0415 - likewise
    from monai.transforms import SpatialResample  # noqa: PLC0415 - likewise

    places = np.clip(np.arange(new) * scale + offset, 0, old - 1)
    forth = np.diag([scale, 1.0, 1.0, 1.0])
    forth[0, 3] = offset
    numbers = MetaTensor(torch.arange(new, dtype=torch.float32).reshape(1, new, 1, 1), affine=torch.as_tensor(forth))
    resample = SpatialResample(mode="nearest", padding_mode="border", align_corners=False, dtype=np.float64)
    back: Any = resample(numbers, dst_affine=torch.eye(4, dtype=torch.float64), spatial_size=(old, 1, 1))
    return places, np.rint(np.asarray(back).ravel()).astype(np.intp)


def _range(places: FloatArray) -> slice:
    if len(places) == 0:
        return slice(0, 0)
    return slice(math.floor(places[0]), math.ceil(places[-1]) + 1)


def _interpolated(values: Any, places: FloatArray, axis: int) -> Any:  # noqa: ANN401 - numpy, of either precision
    """Values at places along an axis; whole steps of one are a view."""
    lower = np.floor(places).astype(np.intp)
    share = places - lower
    if not share.any():
        if len(lower) == values.shape[axis] and np.array_equal(lower, np.arange(len(lower))):
            return values
        return np.take(values, lower, axis=axis)
    upper = np.minimum(lower + 1, values.shape[axis] - 1)
    share = share.reshape([-1 if n == axis else 1 for n in range(values.ndim)])
    return np.take(values, lower, axis=axis) * (1 - share) + np.take(values, upper, axis=axis) * share

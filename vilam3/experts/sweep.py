"""A network over a volume of any size: windows are blended slab by slab and turned into labels as slabs are finished.

The blend is MONAI's `sliding_window_inference`, window for window and sum for sum, but scores are held only for a slab
one window thick, and where there are so many classes that even this is too much, for a part of the slab at a time;
windows across the border of two parts are then computed for each. What remains of the volume is one byte a voxel.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from numpy.typing import NDArray
from torch.nn import functional

from vilam3.experts.protocol import Watch

Shape = tuple[int, int, int]
Range = tuple[int, int]
Ids = NDArray[np.uint8]
BYTES = 4  # of a score
SIGMA_SCALE = 0.125


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """How a volume is cut.

    Attributes:
        size_XYZ: Of a window.
        overlap: Share of a window that its neighbour sees as well.
        mode: Weight of a window's voxels: ``constant`` or ``gaussian``.
        fill: What stands beyond a volume that is smaller than a window.
        batch: Windows at a time.
    """

    size_XYZ: Shape
    overlap: float = 0.25
    mode: str = "constant"
    fill: float = 0.0
    batch: int = 1

    def starts(self, shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Where windows begin along each axis of a volume that is not smaller than a window."""
        steps = [
            window if window == size else max(1, int(window * (1 - self.overlap)))
            for window, size in zip(self.size_XYZ, shape, strict=True)
        ]
        corners: Any = dense_patch_slices(shape, self.size_XYZ, steps)
        x, y, z = (tuple(sorted({corner[axis].start for corner in corners})) for axis in range(3))
        return x, y, z

    def weights(self, device: torch.device) -> torch.Tensor:
        """Weight of each voxel of a window."""
        weights: torch.Tensor = compute_importance_map(
            self.size_XYZ, mode=self.mode, sigma_scale=SIGMA_SCALE, device=device, dtype=torch.float32
        )
        return weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One pass of a network over one volume.

    Attributes:
        shape_XYZ: Of the volume, on the network's grid.
        windows: How it is cut.
        read: Network input of a box, (1, X, Y, Z) float32.
        network: Scores (N, classes, X, Y, Z) of a batch of windows and the corners where they begin.
        labels: Label ids of blended scores, (classes, ...) to (...) uint8.
        num_classes: Of the scores.
        max_bytes: Most that blended scores may take.
        device: Where scores are blended.
    """

    shape_XYZ: Shape
    windows: Windows
    read: Callable[[tuple[slice, slice, slice]], torch.Tensor]
    network: Callable[[torch.Tensor, Sequence[Shape]], torch.Tensor]
    labels: Callable[[torch.Tensor], torch.Tensor]
    num_classes: int
    max_bytes: int
    device: torch.device

    def run(self, *, watch: Watch) -> Ids:
        """Label ids of the whole volume; `watch` is told before each batch of windows."""
        padded = self._padded()
        starts_x, starts_y, starts_z = self.windows.starts(padded)
        parts = list(self._parts(padded, starts_y, starts_z))
        per_part = [len(starts_x) * sum(1 for _ in self._across(part, starts_y, starts_z)) for part in parts]
        ids_XYZ: Ids = np.zeros(self.shape_XYZ, dtype=np.uint8)
        done = 0
        for part, count in zip(parts, per_part, strict=True):
            base = done

            def told(share: float, *, base: int = base, count: int = count) -> None:
                watch((base + share * count) / sum(per_part))

            self._sweep(part, (starts_x, starts_y, starts_z), ids_XYZ, told)
            done += count
        watch(1.0)
        return ids_XYZ

    def _padded(self) -> Shape:
        x, y, z = (max(size, window) for size, window in zip(self.shape_XYZ, self.windows.size_XYZ, strict=True))
        return x, y, z

    def _before(self) -> Shape:
        """Voxels of filling before the volume, along each axis."""
        x, y, z = ((p - s) // 2 for p, s in zip(self._padded(), self.shape_XYZ, strict=True))
        return x, y, z

    def _parts(self, padded: Shape, starts_y: Sequence[int], starts_z: Sequence[int]) -> Iterator[tuple[Range, Range]]:
        """The cross-section in as few parts as memory allows; their borders are where windows begin."""
        per_row = self.num_classes * self.windows.size_XYZ[0] * BYTES
        cuts = [1, 1]
        while True:
            ranges_y, ranges_z = _cut(starts_y, padded[1], cuts[0]), _cut(starts_z, padded[2], cuts[1])
            longest_y, longest_z = (max(high - low for low, high in ranges) for ranges in (ranges_y, ranges_z))
            can_y, can_z = cuts[0] < len(starts_y), cuts[1] < len(starts_z)
            if per_row * longest_y * longest_z <= self.max_bytes or not (can_y or can_z):
                break
            cuts[0 if can_y and (longest_y >= longest_z or not can_z) else 1] += 1
        for range_y in ranges_y:
            for range_z in ranges_z:
                yield range_y, range_z

    def _across(
        self, part: tuple[Range, Range], starts_y: Sequence[int], starts_z: Sequence[int]
    ) -> Iterator[tuple[int, int]]:
        """Where the windows that reach into a part begin, in MONAI's order."""
        (low_y, high_y), (low_z, high_z) = part
        for y in starts_y:
            for z in starts_z:
                if low_y - self.windows.size_XYZ[1] < y < high_y and low_z - self.windows.size_XYZ[2] < z < high_z:
                    yield y, z

    def _sweep(
        self, part: tuple[Range, Range], starts: Sequence[Sequence[int]], ids_XYZ: Ids, told: Callable[[float], None]
    ) -> None:
        """Move a slab along X, from window to window."""
        across = list(self._across(part, starts[1], starts[2]))
        slab = _Slab(self, part)
        for number, x in enumerate(starts[0]):
            for first in range(0, len(across), self.windows.batch):
                told((number + first / len(across)) / len(starts[0]))
                corners = [(x, y, z) for y, z in across[first : first + self.windows.batch]]
                scores_NCXYZ = self.network(torch.stack([self._window(corner) for corner in corners]), corners)
                for corner, scores_CXYZ in zip(corners, scores_NCXYZ, strict=True):
                    slab.add(corner, scores_CXYZ)
            last = number + 1 == len(starts[0])
            slab.finish(x, self._padded()[0] if last else starts[0][number + 1], ids_XYZ, self._before())

    def _window(self, corner: Shape) -> torch.Tensor:
        """Network input of one window, filled up beyond the volume."""
        boxes: list[slice] = []
        filling: list[int] = []
        for start, before, size, window in zip(
            corner, self._before(), self.shape_XYZ, self.windows.size_XYZ, strict=True
        ):
            low, high = max(start - before, 0), min(start - before + window, size)
            boxes.append(slice(low, high))
            filling = [low - (start - before), start - before + window - high, *filling]
        inputs = self.read((boxes[0], boxes[1], boxes[2]))
        return functional.pad(inputs, filling, value=self.windows.fill) if any(filling) else inputs


class _Slab:
    """Blended scores of a part of the cross-section, one window thick."""

    def __init__(self, sweep: Sweep, part: tuple[Range, Range]) -> None:
        (self._low_y, high_y), (self._low_z, high_z) = part
        self._sweep = sweep
        depth = sweep.windows.size_XYZ[0]
        self._extent = (high_y - self._low_y, high_z - self._low_z)
        self._window_weights = sweep.windows.weights(sweep.device)
        self._scores = torch.zeros((sweep.num_classes, depth, *self._extent), device=sweep.device)
        self._weights = torch.zeros((depth, *self._extent), device=sweep.device)

    def add(self, corner: Shape, scores_CXYZ: torch.Tensor) -> None:
        """Blend one window in; what lies outside of the part is left out."""
        theirs, ours = [slice(None)], [slice(None)]
        lows = (self._low_y, self._low_z)
        sizes = self._sweep.windows.size_XYZ[1:]
        for start, low, extent, window in zip(corner[1:], lows, self._extent, sizes, strict=True):
            first, last = max(start, low), min(start + window, low + extent)
            theirs.append(slice(first - start, last - start))
            ours.append(slice(first - low, last - low))
        weights = self._window_weights[tuple(theirs)]
        blended = scores_CXYZ[(slice(None), *theirs)].to(self._weights)
        self._scores[(slice(None), *ours)] += blended.mul_(weights)
        self._weights[tuple(ours)] += weights

    def finish(self, start: int, stop: int, ids_XYZ: Ids, before: Shape) -> None:
        """Turn the planes that no further window reaches into labels, and move on."""
        for plane in range(stop - start):
            blended_CYZ = self._scores[:, plane].div_(self._weights[plane])
            self._write(start + plane - before[0], blended_CYZ, ids_XYZ, before)
        kept = self._weights.shape[0] - (stop - start)
        for held in (self._weights, *self._scores):
            if kept > 0:
                held[:kept] = held[stop - start :].clone()
            held[kept:] = 0

    def _write(self, x: int, blended_CYZ: torch.Tensor, ids_XYZ: Ids, before: Shape) -> None:
        if not 0 <= x < ids_XYZ.shape[0]:
            return
        theirs: list[slice] = []
        ours: list[slice] = []
        for low, extent, skipped, size in zip(
            (self._low_y, self._low_z), self._extent, before[1:], ids_XYZ.shape[1:], strict=True
        ):
            first, last = max(low - skipped, 0), min(low - skipped + extent, size)
            theirs.append(slice(first + skipped - low, last + skipped - low))
            ours.append(slice(first, last))
        labels = self._sweep.labels(blended_CYZ[(slice(None), *theirs)])
        ids_XYZ[x, ours[0], ours[1]] = labels.cpu().numpy()


def _cut(starts: Sequence[int], size: int, count: int) -> list[Range]:
    """An axis in so many ranges, whose borders are beginnings of windows."""
    chosen = sorted({starts[round(number * len(starts) / count)] for number in range(count)})
    return list(zip(chosen, [*chosen[1:], size], strict=True))

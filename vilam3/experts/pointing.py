"""Points in the patient that say which part of a segmentation is meant.

A network with a point head is shown them and decides by itself. For any other, connected components decide: of a
label that has positive points, those components remain that hold one of them, and one that holds a negative point goes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from vilam3.data.study import FloatArray, Volume
from vilam3.errors import ExpertError
from vilam3.experts.bundle import Click
from vilam3.experts.postprocess import FACES_EDGES_CORNERS
from vilam3.experts.protocol import Point

Ids = NDArray[np.uint8]


def clicks_by_id(
    points: Sequence[Point], volume: Volume, *, names: Mapping[int, str], name: str
) -> dict[int, list[Click]]:
    """The voxels that are pointed at, by label id.

    Args:
        points: As given.
        volume: What they are in.
        names: Label id to name.
        name: Of the expert, for messages.

    Raises:
        ExpertError: a point has a label that is unknown, or lies outside of the volume.
    """
    ids = {text: label_id for label_id, text in names.items()}
    clicks: dict[int, list[Click]] = {}
    for point in points:
        if point.label not in ids:
            raise ExpertError(
                f"{name} knows no structure called {point.label[:60]!r} to point at; use the names of its labels."
            )
        xyz = _voxel(point, volume.affine_RAS)
        if not all(0 <= index < size for index, size in zip(xyz, volume.voxels_XYZ.shape, strict=True)):
            raise ExpertError(
                f"{name}: the point {point.xyz_mm} mm of {point.label!r} lies outside of the scan; give RAS "
                f"millimetres of this study."
            )
        clicks.setdefault(ids[point.label], []).append(Click(xyz=xyz, positive=point.positive))
    return clicks


def keep_pointed(ids_XYZ: Ids, clicks: Mapping[int, Sequence[Click]]) -> None:
    """Take away, in place, what the clicks do not mean."""
    for label_id, given in clicks.items():
        components_XYZ, _ = label(ids_XYZ == label_id, structure=FACES_EDGES_CORNERS, output=np.int32)
        hit = {positive: {int(components_XYZ[click.xyz]) for click in given if click.positive is positive} - {0}
               for positive in (True, False)}  # fmt: skip
        is_positive = any(click.positive for click in given)
        gone = np.isin(components_XYZ, list(hit[False]))
        if is_positive:
            gone |= (components_XYZ > 0) & ~np.isin(components_XYZ, list(hit[True]))
        ids_XYZ[gone] = 0


def _voxel(point: Point, affine_RAS: FloatArray) -> tuple[int, int, int]:
    x, y, z = np.rint(np.linalg.solve(affine_RAS, [*point.xyz_mm, 1.0])[:3]).astype(int).tolist()
    return x, y, z

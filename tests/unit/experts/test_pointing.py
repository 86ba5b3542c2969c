"""Points that say which part of a segmentation is meant."""

import numpy as np
import pytest

from tests.unit.experts.bundles import write_prompted
from vilam3.data.study import Study, Volume, study_of
from vilam3.errors import ExpertError
from vilam3.experts.bundle import Click
from vilam3.experts.pointing import keep_pointed
from vilam3.experts.protocol import Point
from vilam3.experts.vista3d import Vista3d, create

AFFINE = np.array([[2.0, 0, 0, -10], [0, 3.0, 0, 5], [0, 0, 5.0, 100], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Vista3d:
    root = tmp_path_factory.mktemp("experts")
    write_prompted(root / "vista3d")
    return create(root)


@pytest.fixture
def study() -> Study:
    """Two livers, at voxels 1 and 5 along X, and a tumour at 7."""
    levels_XYZ = np.zeros((9, 4, 3), dtype=np.float32)
    levels_XYZ[1], levels_XYZ[5], levels_XYZ[7] = 20, 20, 40
    return study_of(modality="CT", volumes=[Volume(voxels_XYZ=levels_XYZ, affine_RAS=AFFINE)])


def at(x: int, label: str, *, positive: bool = True) -> Point:
    """The point in the middle of a voxel."""
    place = (AFFINE @ [x, 2, 1, 1])[:3]
    return Point(xyz_mm=(float(place[0]), float(place[1]), float(place[2])), label=label, positive=positive)


def planes(expert: Vista3d, study: Study, argument: str, *points: Point) -> list[int]:
    mask = expert.run(study, argument, points=points).mask
    assert mask is not None
    return [int(plane.max()) for plane in mask.ids_XYZ]


def test_only_what_is_pointed_at_remains(expert: Vista3d, study: Study) -> None:
    assert planes(expert, study, "hepatic tumor") == [0, 1, 0, 0, 0, 1, 0, 26, 0]
    assert planes(expert, study, "hepatic tumor", at(5, "liver")) == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert planes(expert, study, "hepatic tumor", at(5, "liver", positive=False)) == [0, 1, 0, 0, 0, 0, 0, 0, 0]
    both = at(1, "liver"), at(7, "hepatic tumor")
    assert planes(expert, study, "hepatic tumor", *both) == [0, 1, 0, 0, 0, 0, 0, 26, 0]
    assert planes(expert, study, "", at(3, "liver")) == [0] * 9, "nothing is there"


@pytest.mark.parametrize(
    ("point", "argument", "saying"),
    [
        (Point(xyz_mm=(0, 8, 105), label="unicorn"), "", "knows no structure called 'unicorn'"),
        (Point(xyz_mm=(900, 8, 105), label="liver"), "", r"\(900, 8, 105\) mm of 'liver' lies outside"),
        (Point(xyz_mm=(0, 8, 105), label="spleen"), "hepatic tumor", "'spleen' is pointed at, but is not part of"),
    ],
)
def test_a_point_that_means_nothing_is_refused(
    expert: Vista3d, study: Study, point: Point, argument: str, saying: str
) -> None:
    with pytest.raises(ExpertError, match=saying):
        expert.run(study, argument, points=[point])


def test_touching_corners_are_one_component() -> None:
    ids_XYZ = np.zeros((3, 3, 3), dtype=np.uint8)
    ids_XYZ[0, 0, 0] = ids_XYZ[1, 1, 1] = 3
    ids_XYZ[2, 0, 2] = 5
    keep_pointed(ids_XYZ, {3: [Click(xyz=(0, 0, 0))]})
    assert (ids_XYZ > 0).sum() == 3

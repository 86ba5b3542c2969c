"""Voxels stay where they are in the patient, whatever order they are held in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Orientation
from nibabel.eulerangles import euler2mat

from vilam3.data.geometry import check_affine, ras_volume, reorient, same_grid
from vilam3.data.study import FloatArray
from vilam3.errors import DataError

angles = st.floats(-np.pi, np.pi)


@st.composite
def affines(draw: st.DrawFn) -> FloatArray:
    """Any rotation, three voxel sizes, perhaps mirrored and sheared."""
    turn = euler2mat(draw(angles), draw(angles), draw(angles))
    sizes = [draw(st.floats(0.3, 6.0)) * draw(st.sampled_from([1, -1])) for _ in range(3)]
    shear = np.eye(3)
    shear[1, 2] = draw(st.floats(-0.3, 0.3))
    affine = np.eye(4)
    affine[:3, :3] = turn @ shear @ np.diag(sizes)
    affine[:3, 3] = [draw(st.floats(-300, 300)) for _ in range(3)]
    return affine


@settings(max_examples=40, deadline=None)
@given(affines())
def test_reorienting_keeps_every_voxel_in_its_place_and_is_undone_exactly(affine: FloatArray) -> None:
    shape = (3, 4, 5)
    voxels = np.arange(60, dtype=np.float32).reshape(shape)
    volume = ras_volume(voxels, affine)
    for value in (0, 17, 42, 59):
        before = np.argwhere(voxels == value)[0]
        after = np.argwhere(volume.voxels_XYZ == value)[0]
        np.testing.assert_allclose(affine @ [*before, 1], volume.affine_RAS @ [*after, 1], rtol=1e-9, atol=1e-6)
    back, back_affine = reorient(volume.voxels_XYZ, volume.affine_RAS, axes=volume.stored_axes)
    np.testing.assert_array_equal(back, voxels)
    np.testing.assert_allclose(back_affine, affine, rtol=1e-9, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(affines())
def test_axes_are_chosen_as_monai_chooses_them(affine: FloatArray) -> None:
    voxels = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    expected = Orientation(axcodes="RAS", labels=None)(MetaTensor(voxels[None], affine=affine))
    volume = ras_volume(voxels, affine)
    np.testing.assert_array_equal(volume.voxels_XYZ, np.asarray(expected)[0])
    np.testing.assert_allclose(volume.affine_RAS, np.asarray(expected.affine), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({(0, 0): np.nan}, "not finite"),
        ({(2, 3): np.inf}, "not finite"),
        ({(0, 3): 1e9}, "absurdly large"),
        ({(0, 0): 0.0}, "each edge must be above 0"),
        ({(1, 1): 5000.0}, "at most 1000"),
        ({(0, 0): 0.0, (1, 0): 1.0}, "point the same way"),
    ],
)
def test_impossible_affines_are_refused(change: dict[tuple[int, int], float], words: str) -> None:
    affine = np.eye(4)
    for place, value in change.items():
        affine[place] = value
    with pytest.raises(DataError, match=words):
        check_affine(affine, where="scan")


def test_grids_agree_within_a_tenth_of_a_voxel_at_the_corners() -> None:
    voxels = np.zeros((100, 4, 4), dtype=np.float32)
    first = ras_volume(voxels, np.eye(4))
    near, far = np.eye(4), np.eye(4)
    near[0, 0], far[0, 0] = 1.0005, 1.005
    assert same_grid(first, ras_volume(voxels, near))
    assert not same_grid(first, ras_volume(voxels, far))
    assert not same_grid(first, ras_volume(voxels[:50], np.eye(4)))

"""Slices look as the published model saw them."""

import numpy as np
import pytest
from monai.transforms import ScaleIntensity, ScaleIntensityRange
from numpy.typing import NDArray

from tests.unit.data.dicom_files import real_file
from vilam3.data.intake import read_study
from vilam3.data.render import mask_slice_HW, radiograph_grey_HW, slice_grey_HW, views
from vilam3.data.sample import Modality
from vilam3.data.study import FloatArray, Volume, study_of
from vilam3.errors import DataError


def volume(voxels_XYZ: FloatArray, sequence: str = "") -> Volume:
    return Volume(voxels_XYZ=voxels_XYZ, affine_RAS=np.eye(4), sequence=sequence)


def noise(seed: int = 0, shape: tuple[int, int, int] = (24, 18, 7)) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(30, 250, shape).astype(np.float32)


@pytest.mark.parametrize("modality", ["CT", "MRI"])
@pytest.mark.parametrize("slice_index", [0, 3, 6])
def test_intensities_and_orientation_equal_monai_to_the_last_bit(modality: Modality, slice_index: int) -> None:
    voxels = noise()
    scale = ScaleIntensityRange(-150.0, 250.0, 0, 255, clip=True) if modality == "CT" else ScaleIntensity(0, 255)
    scaled = np.asarray(scale(voxels[None]))[0]
    expected = np.rot90(np.swapaxes(scaled[:, :, slice_index].astype(np.uint8), 0, 1), k=2)
    grey = slice_grey_HW(volume(voxels), modality=modality, slice_index=slice_index)
    np.testing.assert_array_equal(grey, expected)


def test_ct_window_is_minus_150_to_250_truncated() -> None:
    """-150 HU and below are 0, 250 and above 255, and the cast truncates: -149 HU is 0.6, shown as 0."""
    row = np.array([-2000, -150, -149, 50, 249, 250, 3000], dtype=np.float32)
    grey = slice_grey_HW(volume(row.reshape(-1, 1, 1)), modality="CT", slice_index=0)
    assert grey[0, ::-1].tolist() == [0, 0, 0, 127, 254, 255, 255]


def test_row_0_is_anterior_and_column_0_the_patients_right() -> None:
    voxels = np.zeros((4, 3, 1), dtype=np.float32)
    voxels[3, 2, 0] = 1  # rightmost index on X is the patient's right in RAS, the last on Y anterior
    grey = slice_grey_HW(volume(voxels), modality="MRI", slice_index=0)
    assert grey.shape == (3, 4)
    assert grey[0, 0] == 255
    ids = (voxels * 7).astype(np.uint8)
    assert mask_slice_HW(ids, 0)[0, 0] == 7


def test_mri_is_scaled_over_the_whole_volume_not_the_slice() -> None:
    voxels = np.zeros((2, 2, 2), dtype=np.float32)
    voxels[..., 0], voxels[..., 1] = 50, 100
    voxels[0, 0, 0] = 0
    assert slice_grey_HW(volume(voxels), modality="MRI", slice_index=0).max() == 127


def test_constant_volume_is_black() -> None:
    assert not slice_grey_HW(volume(np.full((2, 2, 2), 9.0)), modality="MRI", slice_index=1).any()


def test_views_show_the_middle_slice_and_all_four_sequences_in_order() -> None:
    names = ("t1c", "t1", "t2", "flair")
    volumes = []
    for level, name in enumerate(names, start=1):
        voxels = np.zeros((4, 4, 6), dtype=np.float32)
        voxels[..., 3], voxels[0, 0, 0] = level, 4
        volumes.append(volume(voxels, name))
    pictures = views(study_of(modality="MRI", volumes=volumes))
    assert [picture.mode for picture in pictures] == ["RGB"] * 4
    assert [picture.getpixel((1, 1))[0] for picture in pictures] == [63, 127, 191, 255]  # type: ignore[index]  # RGB


@pytest.mark.parametrize("slice_index", [-1, 6, 10**9])
def test_a_slice_out_of_range_is_refused_with_the_range(slice_index: int) -> None:
    study = study_of(modality="CT", volumes=[volume(noise(shape=(4, 4, 6)))])
    with pytest.raises(DataError, match="choose 0 to 5"):
        views(study, slice_index=slice_index)


def test_radiographs_8_bit_stay_and_16_bit_span_the_range() -> None:
    eight = np.array([[3, 200]], dtype=np.uint8)
    sixteen = np.array([[1000, 3000, 2000]], dtype=np.uint16)
    assert radiograph_grey_HW(eight).tolist() == [[3, 200]]
    assert radiograph_grey_HW(sixteen).tolist() == [[0, 255, 127]]
    assert views(study_of(modality="CXR", radiograph_HW=sixteen))[0].size == (3, 1)


def test_colour_pictures_stay_coloured() -> None:
    rgb = np.zeros((2, 3, 3), dtype=np.uint8)
    rgb[..., 0] = 200
    study = study_of(modality="Unknown", radiograph_HW=rgb[..., 0], picture_HWC=rgb)
    assert views(study)[0].getpixel((0, 0)) == (200, 0, 0)


def test_a_real_ct_shows_the_spine_behind_and_air_at_the_sides() -> None:
    """The carried CT: vertebra in the middle, lungs black at upper left and right, back muscles below."""
    (picture,) = views(read_study(real_file("CT_small.dcm")))
    grey = np.asarray(picture)[..., 0]
    assert grey.shape == (128, 128)
    assert grey[30, 60] > 200
    assert grey[20, 10] == grey[50, 125] == 0
    assert 60 < grey[95, 60] < 255

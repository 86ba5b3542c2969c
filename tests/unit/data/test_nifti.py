"""NIfTI in and out: real volumes, odd headers, damage."""

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat
from nibabel.testing import data_path

from vilam3.data.intake import Limits, read_study
from vilam3.data.nifti import read_volume, write_label_map, write_volume
from vilam3.data.study import Volume
from vilam3.errors import DataError, TooLargeError

CARRIED = Path(data_path)


def read(path: Path, **limits: int) -> tuple[Volume, tuple[str, ...]]:
    return read_volume(path, limits=Limits(**limits), where=path.name)


def write(path: Path, voxels: Any, *, affine: Any = None, header: dict[str, Any] | None = None) -> Path:  # noqa: ANN401 - arrays
    image = nib.Nifti1Image(np.asarray(voxels), np.eye(4) if affine is None else affine)
    data = bytearray(image.to_bytes())
    fields = nib.Nifti1Header(bytes(data[:348]), check=False)
    for key, value in (header or {}).items():
        fields[key] = value
    data[:348] = fields.binaryblock
    path.write_bytes(gzip.compress(bytes(data)) if path.name.endswith(".gz") else bytes(data))
    return path


@pytest.mark.parametrize("name", ["anatomical.nii", "standard.nii.gz", "reoriented_anat_moved.nii"])
def test_carried_volumes_equal_nibabels_canonical_reading(name: str) -> None:
    expected = nib.as_closest_canonical(nib.load(CARRIED / name))
    volume, warnings = read(CARRIED / name)
    np.testing.assert_array_equal(volume.voxels_XYZ, expected.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(volume.affine_RAS, expected.affine)
    assert warnings == ()


@pytest.mark.parametrize("name", ["example4d.nii.gz", "example_nifti2.nii.gz", "functional.nii"])
def test_of_a_4d_file_the_first_volume_is_read_and_said(name: str) -> None:
    expected = nib.as_closest_canonical(nib.load(CARRIED / name)).get_fdata(dtype=np.float32)[..., 0]
    volume, warnings = read(CARRIED / name)
    np.testing.assert_allclose(volume.voxels_XYZ, expected, rtol=1e-6)
    assert "only the first is used" in warnings[0]


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_a_volume_is_written_in_the_axes_it_came_in_and_reads_back_exactly(tmp_path: Path, name: str) -> None:
    source = CARRIED / "anatomical.nii"
    volume, _ = read(source)
    write_volume(tmp_path / name, volume)
    stored = nib.load(tmp_path / name)
    assert "".join(nib.aff2axcodes(stored.affine)) == volume.stored_axes == "LAS"
    np.testing.assert_array_equal(stored.get_fdata(), nib.load(source).get_fdata())
    again, warnings = read(tmp_path / name)
    np.testing.assert_array_equal(again.voxels_XYZ, volume.voxels_XYZ)
    np.testing.assert_allclose(again.affine_RAS, volume.affine_RAS, atol=1e-5)
    assert warnings == ()


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    volume, _ = read(CARRIED / "anatomical.nii")
    write_volume(tmp_path / "a.nii.gz", volume)
    write_volume(tmp_path / "b.nii.gz", volume)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_mask_lies_on_the_voxels_of_the_source_file(tmp_path: Path) -> None:
    """Oblique, mirrored and permuted storage: a voxel marked in RAS is the same voxel of the file."""
    turn = euler2mat(0.3, -0.4, 1.4) @ np.diag([-0.7, 1.1, 2.9])
    source = write(
        tmp_path / "s.nii",
        np.arange(60, dtype=np.int16).reshape(3, 4, 5),
        affine=from_matvec(turn, [5, 6, 7]),
    )
    volume, _ = read(source)
    write_label_map(tmp_path / "m.nii.gz", (volume.voxels_XYZ == 33).astype(np.uint8), like=volume)
    mask, original = nib.load(tmp_path / "m.nii.gz"), nib.load(source)
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.get_fdata() == 1, original.get_fdata() == 33)
    np.testing.assert_allclose(mask.affine, original.affine, atol=1e-5)


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    volume, _ = read(CARRIED / "anatomical.nii")
    with pytest.raises(DataError, match="labels of shape"):
        write_label_map(tmp_path / "m.nii", np.zeros((1, 2, 3), dtype=np.uint8), like=volume)
    assert list(tmp_path.iterdir()) == []


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.nii", np.full((2, 2, 2), 7, dtype=np.int16), header={"scl_slope": 2.0, "scl_inter": -1024.0}
    )
    assert read(path)[0].voxels_XYZ[0, 0, 0] == -1010


def test_a_pair_is_read_from_either_file_and_needs_both(tmp_path: Path) -> None:
    voxels = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    nib.save(nib.Nifti1Pair(voxels, np.eye(4)), tmp_path / "p.img")
    digests = {read_study(path, modality="MRI").digest for path in (tmp_path / "p.hdr", tmp_path / "p.img", tmp_path)}
    assert len(digests) == 1
    (tmp_path / "p.img").unlink()
    with pytest.raises(DataError, match=r"needs its \.img"):
        read_study(tmp_path / "p.hdr")


def test_gzip_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    packed = tmp_path / "x.nii"
    packed.write_bytes((CARRIED / "standard.nii.gz").read_bytes())
    assert read(packed)[0].voxels_XYZ.shape == (4, 5, 7)


def test_voxels_that_are_not_finite_become_the_least_value_and_are_counted(tmp_path: Path) -> None:
    voxels = np.array([-5.0, 3.0, np.nan, np.inf, -np.inf, 1e38], dtype=np.float32).reshape(1, 2, 3)
    volume, warnings = read(write(tmp_path / "x.nii", voxels))
    assert volume.voxels_XYZ.ravel().tolist() == [-5, 3, -5, -5, -5, -5]
    assert warnings == ("4 voxels held no finite value (NaN or infinite); they are shown as the least value",)
    with pytest.raises(DataError, match="no voxel holds a finite value"):
        read(write(tmp_path / "y.nii", np.full((2, 2, 2), np.nan, dtype=np.float32)))


def test_lengths_in_metres_become_millimetres(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.nii",
        np.zeros((2, 2, 2), dtype=np.int16),
        affine=np.diag([0.002, 0.002, 0.003, 1]),
        header={"xyzt_units": 1},
    )
    volume, warnings = read(path)
    assert volume.spacing_mm == pytest.approx((2, 2, 3))
    assert "not in millimetres" in warnings[0]


def test_a_file_without_orientation_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "x.nii", np.zeros((2, 2, 2), dtype=np.int16), header={"sform_code": 0, "qform_code": 0})
    assert "left and right are assumed" in read(path)[1][0]


SMALL = np.zeros((3, 4, 5), dtype=np.int16)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"srow_x": [np.nan, 0, 0, 0]}, "not finite"),
        ({"srow_x": [0, 0, 0, 0]}, "each edge must be above 0"),
        ({"sform_code": 0, "qform_code": 1, "pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, "zero or negative size"),
        ({"dim": [3, 0, 4, 5, 1, 1, 1, 1]}, "an axis of size 0"),
        ({"dim": [3, 3, 4, -5, 1, 1, 1, 1]}, "an axis of size -5"),
        ({"dim": [1, 3, 1, 1, 1, 1, 1, 1]}, "a volume has three"),
        ({"datatype": 128, "bitpix": 24}, "colour or complex"),
        ({"datatype": 32, "bitpix": 64}, "colour or complex"),
        ({"vox_offset": 1e12}, "impossible place"),
        ({"vox_offset": np.nan}, "impossible place"),
        ({"datatype": 9999}, "not readable as NIfTI"),
        ({"dim": [3, 30, 40, 50, 1, 1, 1, 1]}, "cut in transfer"),
    ],
)
def test_an_impossible_header_is_refused(tmp_path: Path, header: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(write(tmp_path / "x.nii", SMALL, header=header))


def test_too_many_voxels_are_refused_from_the_header_alone(tmp_path: Path) -> None:
    """The file holds 60 voxels and claims 27 million million: nothing is allocated."""
    path = write(tmp_path / "x.nii.gz", SMALL, header={"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]})
    with pytest.raises(TooLargeError, match="30,000 x 30,000 x 30,000 voxels"):
        read(path)


def test_damage_and_other_formats_are_refused(tmp_path: Path) -> None:
    whole = (CARRIED / "example4d.nii.gz").read_bytes()
    cases = {
        "empty.nii.gz": (b"", r"empty \(0 bytes\)"),
        "cut.nii.gz": (whole[: len(whole) // 3], "cut in transfer"),
        "head.nii.gz": (whole[:60], "content is not of the kinds"),
        "short.nii": (gzip.decompress(whole)[:5000], "cut in transfer"),
        "text.nii.gz": (b"not a volume at all" * 40, r"named \.nii\.gz, but its content is not"),
        "analyze.hdr": ((CARRIED / "analyze.hdr").read_bytes(), "does not say which side is left"),
    }
    for name, (data, words) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=words):
            read_study(tmp_path / name)

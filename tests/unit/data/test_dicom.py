"""DICOM series become volumes in the right place, and their patients stay unknown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import RLELossless

from tests.unit.data import dicom_files as make
from vilam3.data.geometry import LPS_TO_RAS
from vilam3.data.intake import Limits, read_study
from vilam3.data.study import Study
from vilam3.errors import DataError, TooLargeError


def voxels(depth: int = 6, rows: int = 5, columns: int = 7, seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-50, 2000, (depth, rows, columns)).astype(np.int16)


def value_at(study: Study, point_LPS: Any) -> float:  # noqa: ANN401 - anything array-like
    """The voxel whose centre is at a point in LPS millimetres."""
    volume = study.volumes[0]
    index = np.linalg.inv(volume.affine_RAS) @ LPS_TO_RAS @ np.array([*point_LPS, 1.0])
    x, y, z = np.rint(index[:3]).astype(int)
    np.testing.assert_allclose(index[:3], [x, y, z], atol=1e-4)
    return float(volume.voxels_XYZ[x, y, z])


@pytest.mark.parametrize("grid", [make.Grid(), make.oblique_grid(), make.oblique_grid(angles=(1.5, 0.1, -2.9))])
def test_every_voxel_of_a_series_lies_where_its_tags_say(tmp_path: Path, grid: make.Grid) -> None:
    stored = voxels()
    study = read_study(make.series(tmp_path / "s", stored, grid=grid))
    assert study.warnings == ()
    for k, row, column in ((0, 0, 0), (5, 4, 6), (2, 1, 5), (3, 4, 0)):
        point = (
            grid.origin_mm
            + k * grid.step_mm
            + row * grid.spacing_mm[0] * grid.column
            + column * grid.spacing_mm[1] * grid.row
        )
        assert value_at(study, point) == stored[k, row, column] - 1024


@pytest.mark.parametrize("grid", [make.Grid(), make.oblique_grid()])
def test_geometry_and_values_equal_simpleitks(tmp_path: Path, grid: make.Grid) -> None:
    folder = make.series(tmp_path / "s", voxels(), grid=grid)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    theirs = reader.Execute()
    study = read_study(folder)
    for index in ((0, 0, 0), (6, 4, 5), (3, 2, 1)):
        assert value_at(study, theirs.TransformIndexToPhysicalPoint(index)) == theirs[index]


def test_an_enhanced_multi_frame_file_equals_the_series(tmp_path: Path) -> None:
    stored, grid = voxels(), make.oblique_grid()
    classic = read_study(make.series(tmp_path / "s", stored, grid=grid))
    multi = read_study(make.enhanced(tmp_path / "multi.dcm", stored, grid=grid))
    assert multi.warnings == ()
    np.testing.assert_array_equal(multi.volumes[0].voxels_XYZ, classic.volumes[0].voxels_XYZ)
    np.testing.assert_allclose(multi.volumes[0].affine_RAS, classic.volumes[0].affine_RAS, atol=1e-6)


def test_missing_slices_are_reported_and_filled_without_moving_the_others(tmp_path: Path) -> None:
    stored, grid = voxels(8), make.Grid()
    study = read_study(make.series(tmp_path / "s", stored, skip=(3, 4)))
    assert study.num_slices == 8
    assert any("2 of 8 slices are missing" in text and "3, 4" in text for text in study.warnings)
    assert value_at(study, grid.origin_mm + 7 * grid.step_mm) == stored[7, 0, 0] - 1024
    low, high = stored[2, 0, 0] - 1024.0, stored[5, 0, 0] - 1024.0
    assert value_at(study, grid.origin_mm + 3 * grid.step_mm) == pytest.approx(low + (high - low) / 3, abs=1e-3)


def test_too_many_missing_slices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="slices are missing and only 3"):
        read_study(make.series(tmp_path / "s", voxels(12), skip=tuple(range(2, 11))))


def test_irregular_spacing_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    for index, height in enumerate((0.0, 2.0, 4.6, 6.6)):
        grid = make.Grid(origin_mm=np.array([0.0, 0.0, height]))
        make.series(folder / str(index), voxels(1, seed=index), grid=grid)
    (warning,) = read_study(folder).warnings
    assert "2.00 to 2.60 mm apart" in warning


def test_gantry_tilt_is_kept_in_the_affine_and_reported(tmp_path: Path) -> None:
    grid = make.Grid(step_mm=np.array([0.0, 2.5 * np.tan(np.radians(15)), 2.5]))
    stored = voxels()
    study = read_study(make.series(tmp_path / "s", stored, grid=grid))
    assert any("sheared by 15.0 degrees" in text for text in study.warnings)
    assert value_at(study, grid.origin_mm + 5 * grid.step_mm) == stored[5, 0, 0] - 1024
    assert abs(np.linalg.det(study.volumes[0].affine_RAS)) == pytest.approx(0.8 * 0.6 * 2.5)


def test_two_phases_in_one_series_are_refused(tmp_path: Path) -> None:
    make.series(tmp_path / "s" / "a", voxels())
    make.series(tmp_path / "s" / "b", voxels(seed=1))
    with pytest.raises(DataError, match=r"6 slices of the series lie where another one does; .*phases"):
        read_study(tmp_path / "s")


def test_copies_and_localizers_are_passed_over_with_a_warning(tmp_path: Path) -> None:
    folder = make.series(tmp_path / "s", voxels())
    first = min(folder.iterdir())
    (folder / "zcopy.dcm").write_bytes(first.read_bytes())
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    make.save(make.image(voxels(1)[0], tags=scout), folder / "scout.dcm")
    study = read_study(folder)
    assert study.num_slices == 6
    assert study.warnings == (
        "1 files were copies of others and were passed over",
        "1 localizer images were passed over",
    )


def test_slices_that_are_not_parallel_are_refused(tmp_path: Path) -> None:
    make.series(tmp_path / "s" / "a", voxels())
    make.series(tmp_path / "s" / "b", voxels(1), grid=make.oblique_grid())
    with pytest.raises(DataError, match="not parallel"):
        read_study(tmp_path / "s")


@pytest.mark.parametrize("keyword", ["PatientID", "PatientName", "PatientBirthDate"])
def test_two_patients_mixed_are_refused_without_naming_them(tmp_path: Path, keyword: str) -> None:
    make.series(tmp_path / "s" / "a", voxels())
    other = {"PatientID": "PID-0815", "PatientName": "Roe^Planted", "PatientBirthDate": "19800202"}
    make.series(tmp_path / "s" / "b", voxels(), tags={keyword: other[keyword]})
    with pytest.raises(DataError, match="images of 2 patients are mixed") as refused:
        read_study(tmp_path / "s")
    assert not any(secret in str(refused.value) for secret in (*make.SECRETS, "0815", "Roe", "1980"))


def test_several_series_are_named_by_pseudonym_and_one_can_be_chosen(tmp_path: Path) -> None:
    make.series(tmp_path / "s" / "a", voxels(4), tags={"SeriesInstanceUID": "1.2.3"})
    make.series(tmp_path / "s" / "b", voxels(6), tags={"SeriesInstanceUID": "1.2.4"})
    with pytest.raises(DataError, match="holds 2 series") as refused:
        read_study(tmp_path / "s")
    names = [word for word in str(refused.value).replace("(", " ").split() if word.startswith("series-")]
    depths = {read_study(tmp_path / "s", series=name).num_slices for name in names}
    assert depths == {4, 6}
    assert "1.2.3" not in str(refused.value)
    with pytest.raises(DataError, match="no series named"):
        read_study(tmp_path / "s", series="series-0")


def four_sequences(folder: Path, **other_tags: Any) -> Path:  # noqa: ANN401 - values of DICOM tags
    described = {
        "T2 FLAIR axial": {}, "T1 MPRAGE": {}, "AX T2 TSE": {}, "T1 MPRAGE post": {"ContrastBolusAgent": "Gadovist"},
    }  # fmt: skip
    for index, (description, tags) in enumerate(described.items()):
        every = {"SeriesDescription": description, "SeriesInstanceUID": f"1.2.{index}", **tags, **other_tags}
        make.series(folder / str(index), voxels(seed=index), modality="MR", tags=every)
    return folder


def test_four_mr_series_are_told_apart_by_what_they_are_not_by_their_order(tmp_path: Path) -> None:
    study = read_study(four_sequences(tmp_path / "s"))
    assert study.modality == "MRI"
    assert [volume.sequence for volume in study.volumes] == ["t1c", "t1", "t2", "flair"]
    for volume, seed in zip(study.volumes, (3, 1, 2, 0), strict=True):
        assert sorted(volume.voxels_XYZ.ravel()) == sorted(voxels(seed=seed).ravel().astype(float))


def test_four_mr_series_on_different_grids_are_refused(tmp_path: Path) -> None:
    folder = four_sequences(tmp_path / "s")
    tags = {"SeriesDescription": "T1 MPRAGE", "SeriesInstanceUID": "1.2.1"}
    make.series(folder / "1", voxels(), grid=make.oblique_grid(), modality="MR", tags=tags)
    with pytest.raises(DataError, match="different grids"):
        read_study(folder)


def test_mr_without_description_is_told_by_its_timing(tmp_path: Path) -> None:
    tags = {"SeriesDescription": "", "EchoTime": 100, "RepetitionTime": 9000, "InversionTime": 2500}
    study = read_study(make.series(tmp_path / "s", voxels(), modality="MR", tags=tags))
    assert study.volumes[0].sequence == "flair"


def test_overlay_bits_are_masked_and_signs_extended(tmp_path: Path) -> None:
    stored = np.full((2, 2), 0xF123, dtype=np.uint16)  # four overlay bits above twelve
    base = {"BitsStored": 12, "HighBit": 11, "ImagePositionPatient": [0, 0, 0]}
    place = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
    unsigned = make.save(make.image(stored, tags={**base, **place}), tmp_path / "u.dcm")
    assert read_study(unsigned).volumes[0].voxels_XYZ.max() == 0x123
    negative = make.image(np.full((2, 2), 0x0FFF, dtype=np.int16), tags={**base, **place})
    assert read_study(make.save(negative, tmp_path / "s.dcm")).volumes[0].voxels_XYZ.max() == -1


def test_monochrome1_and_16_bit_radiographs_come_out_bright_where_dense(tmp_path: Path) -> None:
    pixels = np.array([[100, 4000], [2000, 100]], dtype=np.uint16)
    plain = make.image(pixels, modality="DX")
    inverse = make.image(pixels, modality="DX", tags={"PhotometricInterpretation": "MONOCHROME1"})
    first, second = (
        read_study(make.save(dataset, tmp_path / f"{index}.dcm")) for index, dataset in enumerate((plain, inverse))
    )
    assert first.modality == "CXR"
    assert first.radiograph_HW is not None
    assert second.radiograph_HW is not None
    assert first.radiograph_HW[0].tolist() == [0, 65535]
    assert second.radiograph_HW[0].tolist() == [65535, 0]
    eight = make.image(np.array([[10, 20]], dtype=np.uint8), modality="DX")
    kept = read_study(make.save(eight, tmp_path / "8.dcm")).radiograph_HW
    assert kept is not None
    assert kept.tolist() == [[10, 20]]


def test_a_radiograph_is_shown_in_its_makers_window(tmp_path: Path) -> None:
    pixels = np.array([[0, 1000, 1500, 2000, 60000]], dtype=np.uint16)
    tags = {"WindowCenter": 1500, "WindowWidth": 1000}
    study = read_study(make.save(make.image(pixels, modality="DX", tags=tags), tmp_path / "x.dcm"))
    assert study.radiograph_HW is not None
    first, low, middle, high, last = study.radiograph_HW[0].astype(float) / 65535
    assert (first, last) == (0.0, 1.0)
    assert low == pytest.approx(0.0, abs=0.01)
    assert middle == pytest.approx(0.5, abs=0.01)
    assert high == pytest.approx(1.0, abs=0.01)


def test_a_hand_is_no_chest(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2), dtype=np.uint8)
    hand = make.image(pixels, modality="DX", tags={"BodyPartExamined": "HAND"})
    assert read_study(make.save(hand, tmp_path / "h.dcm")).modality == "Unknown"


@pytest.mark.parametrize(
    ("name", "modality"),
    [("CT_small.dcm", "CT"), ("MR_small.dcm", "MRI"), ("image_dfl.dcm", "Unknown")],
)
def test_real_files_are_read(name: str, modality: str) -> None:
    study = read_study(make.real_file(name))
    assert study.modality == modality
    assert study.num_slices == 1


def test_a_file_without_preamble_is_read(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(make.real_file("CT_small.dcm"))
    dataset.preamble, dataset.file_meta = None, FileMetaDataset()
    bare = tmp_path / "bare"
    pydicom.dcmwrite(bare, dataset, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert bare.read_bytes()[:2] == b"\x08\x00"
    assert read_study(bare).digest == read_study(make.real_file("CT_small.dcm")).digest


@pytest.mark.parametrize(
    "variant",
    ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"],
)
def test_real_compressed_and_reordered_files_hold_the_same_content(variant: str) -> None:
    """Digests are of content: encoding, file name and identifiers do not matter."""
    plain, other = read_study(make.real_file("MR_small.dcm")), read_study(make.real_file(f"MR_small_{variant}.dcm"))
    assert other.digest == plain.digest


def test_the_digest_does_not_depend_on_names_or_identifiers_but_on_every_voxel(tmp_path: Path) -> None:
    stored = voxels()
    first = read_study(make.series(tmp_path / "a", stored))
    second = read_study(make.series(tmp_path / "b", stored, tags={"PatientName": "Roe", "SeriesInstanceUID": "9.9"}))
    assert first.digest == second.digest
    assert first.series != second.series
    stored[0, 0, 0] += 1
    assert read_study(make.series(tmp_path / "c", stored)).digest != first.digest
    assert read_study(tmp_path / "b", modality="MRI").digest != second.digest


Spoil = Callable[[Any], None]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no position": ({"ImagePositionPatient": None}, "ImagePositionPatient is missing"),
    "no orientation": ({"ImageOrientationPatient": None}, "ImageOrientationPatient is missing"),
    "no spacing": ({"PixelSpacing": None}, "PixelSpacing is missing"),
    "zero spacing": ({"PixelSpacing": [0, 0]}, "PixelSpacing is not above 0"),
    "crooked axes": ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "two perpendicular unit vectors"),
    "no axes": ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "two perpendicular unit vectors"),
    "colour": ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour or palette"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour or palette"),
    "no rows": ({"Rows": 0}, "Rows is not a whole number above 0"),
    "no size": ({"Rows": None}, "holds no DICOM image"),
    "more rows": ({"Rows": 400}, "cut in transfer"),
    "no pixels": ({"PixelData": None}, "no pixel values"),
    "flat scale": ({"RescaleSlope": 0}, "RescaleSlope is 0"),
    "no modality": ({"Modality": None}, "say which it is"),
    "segmentation": ({"Modality": "SEG"}, "CT, MR and X-ray images are read"),
    "cine": ({"NumberOfFrames": 3}, "3 frames without their places"),
    "odd bits": ({"BitsAllocated": 12}, "BitsAllocated"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_unusable_file_is_refused_in_one_sentence_that_names_no_patient(tmp_path: Path, case: str) -> None:
    tags, words = BAD[case]
    with pytest.raises(DataError, match=words) as refused:
        read_study(make.series(tmp_path / "s", voxels(1), tags=tags))
    message = str(refused.value)
    assert "\n" not in message
    assert not any(secret in message for secret in make.SECRETS)
    assert refused.value.__cause__ is None


def test_absurd_sizes_are_refused_before_decoding(tmp_path: Path) -> None:
    with pytest.raises(TooLargeError, match="65,535 x 65,535 pixels"):
        read_study(make.series(tmp_path / "s", voxels(1), tags={"Rows": 65535, "Columns": 65535}))
    with pytest.raises(TooLargeError, match="7 x 5 x 6 voxels, more than the limit of 100"):
        read_study(make.series(tmp_path / "t", voxels()), limits=Limits(max_voxels=100))


def test_a_compressed_frame_that_states_another_size_is_refused(tmp_path: Path) -> None:
    data = bytearray(make.real_file("MR_small_jp2klossless.dcm").read_bytes())
    start = data.index(b"\xff\x4f\xff\x51") + 8
    data[start : start + 8] = (60000).to_bytes(4, "big") * 2
    bomb = tmp_path / "bomb.dcm"
    bomb.write_bytes(data)
    with pytest.raises(TooLargeError, match="60,000 x 60,000"):
        read_study(bomb)


def test_rle_written_by_pydicom_reads_back(tmp_path: Path) -> None:
    folder = make.series(tmp_path / "s", voxels(1))
    plain = read_study(folder)
    dataset = pydicom.dcmread(next(folder.iterdir()))
    dataset.compress(RLELossless)
    make.save(dataset, folder / next(folder.iterdir()).name)
    assert read_study(folder).digest == plain.digest


def test_rle_that_holds_more_than_its_header_says_is_refused(tmp_path: Path) -> None:
    """The decoder panics, and what it raises then would end whoever expects an `Exception`."""
    dataset = pydicom.dcmread(make.real_file("MR_small_RLE.dcm"))
    dataset.Rows //= 2
    with pytest.raises(DataError, match="not readable as DICOM"):
        read_study(make.save(dataset, tmp_path / "x.dcm"))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9, 0.98])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    data = make.real_file("CT_small.dcm").read_bytes()
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"^cut\.dcm: "):
        read_study(cut)


def test_no_message_warning_name_or_log_tells_the_patient(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    study = read_study(make.series(tmp_path / "s", voxels(8), skip=(3,)))
    said = " ".join((study.digest, study.series, *study.warnings, caplog.text, *capsys.readouterr()))
    assert study.warnings
    assert not any(secret in said for secret in make.SECRETS)

"""A DICOM SEG lies where the series lies, says who made it, and carries no more of the patient than it must."""

import io
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.sr._concepts_dict import concepts

from tests.unit.data import dicom_files as make
from vilam3.data.dicom_source import DicomSource
from vilam3.data.intake import read_study
from vilam3.data.nifti import read_label_map, write_label_map
from vilam3.data.study import Study
from vilam3.errors import DataError, NotFoundError
from vilam3.experts.facts import BRATS_LABELS, LABELS
from vilam3.experts.protocol import LabelMap
from vilam3.objects import FolderStore
from vilam3.results.codes import PRIVATE, Code, property_of
from vilam3.results.segmentation import Author, Form, encode
from vilam3.shelf import Shelf

SHAPE_KHW = (6, 5, 7)
NAMES = {1: "liver", 26: "hepatic tumor", 75: "right rib 1"}
AUTHOR = Author(expert="VISTA3D", version="0.5.4", digest="d" * 64, key="chatcmpl-1/0")
UIDS = {"StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.9"}
GRIDS = {
    "axial": make.Grid(),
    "anisotropic": make.Grid(spacing_mm=(0.31, 2.2), step_mm=np.array([0.0, 0.0, 7.0])),
    "oblique": make.oblique_grid(),
    "gantry tilt": make.Grid(step_mm=np.array([0.0, 0.9, 2.5])),
    "coronal": make.Grid(row=np.array([1.0, 0, 0]), column=np.array([0, 0, -1.0]), step_mm=np.array([0, 2.0, 0])),
    "downwards": make.Grid(step_mm=np.array([0.0, 0.0, -3.0])),
}


def stored() -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(0, 1000, SHAPE_KHW).astype(np.int16)


def study_on(grid: make.Grid, folder: Path, *, kind: str = "series", skip: tuple[int, ...] = ()) -> Study:
    """A study of DICOM files that name their study and space."""
    if kind == "series":
        return read_study(make.series(folder / "series", stored(), grid=grid, tags=UIDS, skip=skip))
    path = make.enhanced(folder / "multi.dcm", stored(), grid=grid)
    dataset = pydicom.dcmread(path)
    for keyword, value in UIDS.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return read_study(path)


def mask_of(study: Study, folder: Path) -> LabelMap:
    """Three structures, by way of the file in which answers keep them."""
    volume = study.volumes[0]
    ids_XYZ = np.zeros(volume.voxels_XYZ.shape, np.uint8)
    ids_XYZ[0:3, 1:4, 1:3] = 1
    ids_XYZ[2, 3, 2] = 26
    ids_XYZ[-1, -1, -1] = 75
    write_label_map(folder / "mask.nii.gz", ids_XYZ, like=volume, names=NAMES)
    read_XYZ, affine, names = read_label_map((folder / "mask.nii.gz").read_bytes())
    np.testing.assert_array_equal(read_XYZ, ids_XYZ)
    assert names == NAMES
    return LabelMap(ids_XYZ=read_XYZ, affine_RAS=affine, names=names)


def segmented(study: Study, folder: Path, form: Form = "LABELMAP") -> hd.seg.Segmentation:
    assert study.source is not None
    return hd.seg.segread(io.BytesIO(encode(mask_of(study, folder), study.source, author=AUTHOR, form=form)))


def labels_by_point(found: hd.seg.Segmentation) -> dict[tuple[float, ...], str]:
    """Where each labelled voxel lies in the patient (LPS), from nothing but what the file says."""
    shared = found.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
    names = {segment.SegmentNumber: segment.SegmentLabel for segment in found.SegmentSequence}
    frames = found.pixel_array.reshape(-1, found.Rows, found.Columns)
    points: dict[tuple[float, ...], str] = {}
    for values_HW, group in zip(frames, found.PerFrameFunctionalGroupsSequence, strict=True):
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        for row, column in np.argwhere(values_HW):
            point = corner + row * spacing[0] * orientation[3:] + column * spacing[1] * orientation[:3]
            segment = (
                int(values_HW[row, column])
                if found.SegmentationType == "LABELMAP"
                else group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            )
            points[tuple(np.round(point, 2).tolist())] = names[segment]
    return points


def expected_points(study: Study, mask: LabelMap) -> dict[tuple[float, ...], str]:
    """The same from the study's own affine."""
    affine = study.volumes[0].affine_RAS
    points = {}
    for index in np.argwhere(mask.ids_XYZ):
        ras = affine @ (*index, 1.0)
        lps = np.round([-ras[0], -ras[1], ras[2]], 2) + 0.0
        points[tuple(lps.tolist())] = NAMES[int(mask.ids_XYZ[tuple(index)])]
    return points


@pytest.mark.parametrize("form", ["LABELMAP", "BINARY"])
@pytest.mark.parametrize("kind", ["series", "multi-frame"])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_every_voxel_lies_where_the_study_has_it(tmp_path: Path, grid: make.Grid, kind: str, form: Form) -> None:
    study = study_on(grid, tmp_path, kind=kind)
    found = labels_by_point(segmented(study, tmp_path, form))
    expected = expected_points(study, mask_of(study, tmp_path))
    assert sorted(found.values()) == sorted(expected.values())
    for point, name in expected.items():
        near = [other for other in found if np.abs(np.subtract(point, other)).max() < 0.02]
        assert [found[other] for other in near] == [name]


@pytest.mark.parametrize("kind", ["series", "multi-frame"])
def test_each_frame_names_the_image_it_lies_on(tmp_path: Path, kind: str) -> None:
    study = study_on(GRIDS["gantry tilt"], tmp_path, kind=kind)
    assert study.source is not None
    for group in segmented(study, tmp_path).PerFrameFunctionalGroupsSequence:
        position = [float(value) for value in group.PlanePositionSequence[0].ImagePositionPatient]
        (image,) = group.DerivationImageSequence[0].SourceImageSequence
        (plane,) = [plane for plane in study.source.planes if np.allclose(plane.position_mm, position, atol=1e-3)]
        assert image.ReferencedSOPInstanceUID == plane.instance_uid
        if kind == "multi-frame":
            assert int(image.ReferencedFrameNumber) == plane.frame + 1


def test_run_lengths_are_those_of_another_encoder(tmp_path: Path) -> None:
    """Byte for byte, with frames and rows of an odd number of voxels."""
    study = study_on(make.Grid(), tmp_path)
    assert study.source is not None
    read = pydicom.dcmread(io.BytesIO(encode(mask_of(study, tmp_path), study.source, author=AUTHOR)))
    count = int(read.NumberOfFrames)
    ours = list(pydicom.encaps.generate_frames(read.PixelData, number_of_frames=count))
    read.decompress()
    read.compress(pydicom.uid.RLELossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    assert ours == list(pydicom.encaps.generate_frames(read.PixelData, number_of_frames=count))


def test_a_missing_slice_keeps_its_place(tmp_path: Path) -> None:
    study = study_on(make.Grid(), tmp_path, skip=(2,))
    assert study.source is not None
    assert [bool(plane.instance_uid) for plane in study.source.planes] == [True, True, False, True, True, True]
    assert set(labels_by_point(segmented(study, tmp_path)).values()) == set(NAMES.values())


def test_it_is_filed_under_its_patient_and_study_and_says_nothing_more(tmp_path: Path) -> None:
    study = study_on(make.Grid(), tmp_path)
    found = segmented(study, tmp_path)
    assert (found.PatientName, found.PatientID, found.StudyInstanceUID) == (make.PATIENT, "PID-4711", "1.2.3")
    assert found.FrameOfReferenceUID == "1.2.9"
    assert "Secretdescription" not in str(found)  # of the series
    assert found.SeriesInstanceUID != "1.2.3.4"
    assert found.file_meta.TransferSyntaxUID == pydicom.uid.RLELossless
    assert "Doe" not in repr(study)


def test_tags_that_no_object_could_hold_are_left_empty(tmp_path: Path) -> None:
    odd = {
        "PatientBirthDate": "long ago",
        "PatientSex": "?",
        "StudyTime": "noon",
        "PatientID": "x" * 90,
        "StudyID": "1",
    }
    study = read_study(make.series(tmp_path / "s", stored(), tags={**UIDS, **odd}))
    found = segmented(study, tmp_path)
    assert (found.PatientName, found.PatientID, found.StudyID) == (make.PATIENT, "", "1")
    assert not found.PatientBirthDate
    assert not found.StudyTime


def test_an_instance_without_a_proper_uid_cannot_be_referred_to(tmp_path: Path) -> None:
    study = read_study(make.series(tmp_path / "s", stored(), tags={**UIDS, "StudyInstanceUID": "1.2.x"}))
    assert study.source is not None
    assert not study.source.is_filed


def test_the_same_result_has_the_same_uids(tmp_path: Path) -> None:
    """Storing twice is harmless, and the two forms are two objects of one series."""
    study = study_on(make.Grid(), tmp_path)
    forms: tuple[Form, ...] = ("LABELMAP", "LABELMAP", "BINARY")
    first, again, older = (segmented(study, tmp_path, form) for form in forms)
    assert first.SOPInstanceUID == again.SOPInstanceUID != older.SOPInstanceUID
    assert first.SeriesInstanceUID == older.SeriesInstanceUID


def test_a_kept_study_has_its_source_beside_it_and_not_in_it(tmp_path: Path) -> None:
    """So that experts, who read the study, and whoever asks again read nothing of the patient."""
    study = study_on(make.oblique_grid(), tmp_path)
    assert study.source is not None
    reference = Shelf(FolderStore(tmp_path / "store")).put("ward", study).reference
    shelf = Shelf(FolderStore(tmp_path / "store"))
    read = shelf.get(reference)
    assert (read.digest, read.source) == (study.digest, None)
    kept = shelf.source(read)
    assert kept is not None
    assert kept.as_json() == study.source.as_json()
    np.testing.assert_allclose(kept.affine_LPS, study.source.affine_LPS)
    holding = {
        path.name for path in (tmp_path / "store").rglob("*") if path.is_file() and b"Planted" in path.read_bytes()
    }
    assert holding == {"source.json"}


def test_segments_are_coded(tmp_path: Path) -> None:
    tumor = next(
        segment
        for segment in segmented(study_on(make.Grid(), tmp_path), tmp_path).SegmentSequence
        if segment.SegmentLabel == "hepatic tumor"
    )
    assert tumor.SegmentedPropertyTypeCodeSequence[0].CodeValue == "108369006"
    assert tumor.AnatomicRegionSequence[0].CodeMeaning == "Liver"
    assert tumor.SegmentAlgorithmType == "AUTOMATIC"
    assert tumor.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "0.5.4"


def test_sides_are_coded() -> None:
    assert property_of("left kidney").side == Code(value="7771000", meaning="Left")
    assert property_of("left kidney").type == property_of("kidney").type
    assert property_of("right rib 12").type.meaning == "Rib"
    assert property_of("Zebra organ (3)").type == Code(value="ZEBRA-ORGAN-3", meaning="zebra organ (3)", scheme=PRIVATE)


@pytest.mark.parametrize("name", [*LABELS.values(), *BRATS_LABELS.values()])
def test_codes_are_those_of_the_dictionary(name: str) -> None:
    coded = property_of(name)
    for code in (coded.category, coded.type, coded.region, coded.side):
        if code is not None and code.scheme == "SCT":
            meanings = {entry[code.value][0].lower() for entry in concepts["SCT"].values() if code.value in entry}
            assert code.meaning.lower() in meanings


def test_nothing_found_is_nothing_to_store(tmp_path: Path) -> None:
    study = study_on(make.Grid(), tmp_path)
    assert study.source is not None
    volume = study.volumes[0]
    empty = LabelMap(ids_XYZ=np.zeros(volume.voxels_XYZ.shape, np.uint8), affine_RAS=volume.affine_RAS, names={})
    with pytest.raises(NotFoundError, match="found none"):
        encode(empty, study.source, author=AUTHOR)


def test_images_that_name_no_study_cannot_be_referred_to(tmp_path: Path) -> None:
    study = read_study(make.series(tmp_path, stored()))
    assert study.source is not None
    assert not study.source.is_filed
    with pytest.raises(DataError, match="take the NIfTI mask"):
        encode(mask_of(study, tmp_path), study.source, author=AUTHOR)


def test_a_mask_of_another_grid_is_refused(tmp_path: Path) -> None:
    study, other = study_on(make.Grid(), tmp_path / "a"), study_on(make.oblique_grid(), tmp_path / "b")
    assert isinstance(other.source, DicomSource)
    with pytest.raises(DataError, match="does not lie on the slices"):
        encode(mask_of(study, tmp_path), other.source, author=AUTHOR)

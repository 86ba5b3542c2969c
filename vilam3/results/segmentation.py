"""A segmentation as DICOM SEG on the very slices of its series, be they tilted, oblique, uneven or multi-frame.

A label map with run-length encoding is the default: one frame a slice, whatever the number of labels. Archives that do
not know this storage class yet (Supplement 243) take the older form, one bit a voxel and one frame for each label and
slice.
"""

import hashlib
import io
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import highdicom as hd
import imagecodecs
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from vilam3 import __version__
from vilam3.data.dicom_source import DicomSource
from vilam3.data.geometry import LPS_TO_RAS, reorient
from vilam3.errors import DataError, NotFoundError
from vilam3.experts.protocol import LabelMap
from vilam3.results.codes import Code, property_of

Form = Literal["LABELMAP", "BINARY"]
RLE_HEADER = struct.pack("<16L", 1, 64, *[0] * 14)  # one segment, which begins after the header
ROWS_AT_ONCE = 4  # 256 KiB of a usual CT
MANUFACTURER = "vilam3"
SERIES_NUMBER = 9_900
SAME_PLACE = 0.05  # of a voxel: a mask's own affine is in float32
UNKNOWN = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who found it.

    Attributes:
        expert: As in triggers.
        version: Of its weights.
        digest: Of its weights.
        key: Names this result; the same key makes the same UIDs, so that storing twice changes nothing.
    """

    expert: str
    version: str
    digest: str
    key: str


def encode(mask: LabelMap, source: DicomSource, *, author: Author, form: Form = "LABELMAP") -> bytes:
    """The DICOM file of a segmentation.

    Args:
        mask: Label ids on the grid of the source's volume.
        source: The series it was made from.
        author: Recorded in every segment.
        form: How it is encoded.

    Raises:
        DataError: the series lacks what a SEG must refer to, or the mask is not on its grid.
        NotFoundError: no voxel has a label.
    """
    _check(source)
    ids_KJI, names = _segments(_on_slices(mask, source), mask.names)
    try:
        return _file(ids_KJI, names, source, author, form)
    except Exception:  # noqa: BLE001 - of hostile tags highdicom and pydicom make anything, and quote what they hold
        raise DataError(
            "segmentation: the tags of the images cannot stand in another DICOM object; take the NIfTI mask instead"
        ) from None


def _file(ids_KJI: NDArray[np.uint8], names: Sequence[str], source: DicomSource, author: Author, form: Form) -> bytes:
    made = Segmentation(
        source_images=_images(source),
        pixel_array=ids_KJI,
        segmentation_type=form,
        segment_descriptions=[_described(number, name, author) for number, name in enumerate(names, start=1)],
        series_instance_uid=_uid(author.key, "series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=_uid(author.key, form),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=author.expert,
        software_versions=__version__,
        device_serial_number=author.digest[:16] or UNKNOWN,
        content_label="SEGMENTATION",
        content_description="Draft, not reviewed; research use only",
        series_description=f"{author.expert} segmentation (draft)",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        plane_positions=_positions(source),
        specific_character_set="ISO_IR 192",
    )
    if form == "LABELMAP":
        _compress(made)
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _compress(made: Segmentation) -> None:
    """Run-length encode the frames of a label map, each row by itself (PS3.5, annex G).

    DICOM's run lengths are PackBits, and imagecodecs' are 15 times as fast as those of pydicom's plug-ins.
    """
    stored = np.frombuffer(made.PixelData, np.uint8)[: made.NumberOfFrames * made.Rows * made.Columns]
    ids_KJI = stored.reshape(made.NumberOfFrames, made.Rows, made.Columns)  # in highdicom's order, empty ones left out
    frames = [RLE_HEADER + imagecodecs.packbits_encode(frame) for frame in ids_KJI]
    made.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2) for frame in frames])
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = RLELossless


def _check(source: DicomSource) -> None:
    if not source.is_filed:
        raise DataError(
            "segmentation: the images name no study, series or instance to refer to; take the NIfTI mask instead"
        )
    if source.is_multiframe and len({plane.instance_uid for plane in source.planes if plane.instance_uid}) > 1:
        raise DataError(
            "segmentation: the series is several multi-frame objects, and a SEG refers to one; take the NIfTI mask"
        )


def _on_slices(mask: LabelMap, source: DicomSource) -> NDArray[np.uint8]:
    """Label ids as slices x rows x columns of the series."""
    affine_RAS = LPS_TO_RAS @ source.affine_LPS
    ids_IJK, affine = reorient(mask.ids_XYZ, mask.affine_RAS, axes="".join(aff2axcodes(affine_RAS)))
    shape = (source.columns, source.rows, len(source.planes))
    edges_mm = np.linalg.norm(affine_RAS[:3, :3], axis=0)
    corner = np.array([*(size - 1 for size in shape), 1.0])
    apart_mm = max(
        np.abs((affine - affine_RAS) @ point)[:3].max() for point in (corner, np.array([0.0, 0.0, 0.0, 1.0]))
    )
    if ids_IJK.shape != shape or apart_mm > SAME_PLACE * edges_mm.min():
        raise DataError("segmentation: the mask does not lie on the slices of its series; ask again")
    return _in_one_piece(ids_IJK.transpose(2, 1, 0))


def _in_one_piece(ids_KJI: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same, frame after frame in memory.

    Neighbours along an axis mostly lie a power of two apart, where they push one another out of the processor's cache;
    so a few rows at a time are copied as they lie before they are turned, which is ten times as fast.
    """
    turned_KJI = np.empty(ids_KJI.shape, np.uint8)
    for row in range(0, ids_KJI.shape[1], ROWS_AT_ONCE):
        rows = slice(row, row + ROWS_AT_ONCE)
        turned_KJI[:, rows] = ids_KJI[:, rows].copy(order="K")
    return turned_KJI


def _segments(ids_KJI: NDArray[np.uint8], names: Mapping[int, str]) -> tuple[NDArray[np.uint8], list[str]]:
    """Numbered from 1 without gaps, as the older form needs it, in ascending order of label id; and their names.

    Frame by frame and in place, because the whole as an index would be eight times the mask.
    """
    counts = sum(np.bincount(frame.ravel(), minlength=256) for frame in ids_KJI)
    present = [int(label_id) for label_id in np.flatnonzero(counts) if label_id]
    if not present:
        raise NotFoundError("segmentation: the expert found none of what it was asked for, so there is none to store")
    table = np.zeros(256, dtype=np.uint8)
    table[present] = np.arange(1, len(present) + 1)
    for frame in ids_KJI:
        frame[...] = table[frame]
    return ids_KJI, [names.get(label_id, f"label {label_id}") for label_id in present]


def _described(number: int, name: str, author: Author) -> SegmentDescription:
    coded = property_of(name)
    described = SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=_dicom(coded.category),
        segmented_property_type=_dicom(coded.type),
        anatomic_regions=None if coded.region is None else [_dicom(coded.region)],
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=author.expert,
            family=codes.DCM.ArtificialIntelligence,
            version=author.version or UNKNOWN,
            parameters={"weights": author.digest} if author.digest else None,
        ),
        tracking_id=f"{author.expert} {name}"[:64],
        tracking_uid=_uid(author.key, f"segment {name}"),
    )
    if coded.side is not None:
        kind = described.SegmentedPropertyTypeCodeSequence[0]
        side = coded.side
        kind.SegmentedPropertyTypeModifierCodeSequence = [hd.sr.CodedConcept(side.value, side.scheme, side.meaning)]
    return described


def _dicom(code: Code) -> DicomCode:
    return DicomCode(code.value, code.scheme, code.meaning)


def _images(source: DicomSource) -> list[Dataset]:
    """The images as far as a SEG refers to them."""
    present = [plane for plane in source.planes if plane.instance_uid]
    if source.is_multiframe:
        return [_multiframe(source)]
    images = []
    for plane in present:
        image = _common(source, plane.class_uid, plane.instance_uid)
        image.ImagePositionPatient = list(plane.position_mm)
        image.update(_measures(source))
        image.ImageOrientationPatient = list(source.orientation)
        images.append(image)
    return images


def _multiframe(source: DicomSource) -> Dataset:
    frames = sorted((plane for plane in source.planes if plane.instance_uid), key=lambda plane: plane.frame)
    image = _common(source, frames[0].class_uid, frames[0].instance_uid)
    shared, orientation = Dataset(), Dataset()
    orientation.ImageOrientationPatient = list(source.orientation)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [_measures(source)], [orientation]
    image.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for plane in frames:
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = list(plane.position_mm)
        group.PlanePositionSequence = [position]
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence = groups
    image.NumberOfFrames = len(groups)
    return image


def _common(source: DicomSource, class_uid: str, instance_uid: str) -> Dataset:
    image = Dataset()
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
        setattr(image, keyword, source.identity.get(keyword, ""))
    for keyword in ("StudyDate", "StudyTime", "ReferringPhysicianName"):
        setattr(image, keyword, source.identity.get(keyword) or None)
    image.StudyInstanceUID, image.SeriesInstanceUID = source.identity["StudyInstanceUID"], source.series_uid
    image.SOPClassUID, image.SOPInstanceUID = class_uid, instance_uid
    # Images without one have no neighbours in space but themselves.
    image.FrameOfReferenceUID = source.frame_of_reference_uid or _uid(source.series_uid, "frame of reference")
    image.Modality, image.Rows, image.Columns = source.modality, source.rows, source.columns
    return image


def _measures(source: DicomSource) -> Dataset:
    measures = Dataset()
    measures.PixelSpacing = list(source.spacing_mm)
    measures.SliceThickness = source.thickness_mm or float(np.linalg.norm(source.affine_LPS[:3, 2]))
    return measures


def _positions(source: DicomSource) -> Sequence[Any]:
    return [
        hd.PlanePositionSequence(
            coordinate_system=hd.CoordinateSystemNames.PATIENT, image_position=list(plane.position_mm)
        )
        for plane in source.planes
    ]


def _uid(key: str, part: str) -> str:
    """A UID that follows from what it names."""
    digest = hashlib.sha256(f"vilam3\0{key}\0{part}".encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"

"""What a result that goes back to a PACS must say of the images it was made from; kept beside a study, not in it.

A DICOM SEG is filed under its patient and study, and each of its frames names the image it lies on. So a study that was
read from DICOM carries these few tags and the places of its slices, and nothing else of the headers. They hold the
patient's identity: they are kept where the images are kept, and never printed, logged or told to a model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from vilam3.data.dicom_file import text
from vilam3.data.dicom_geometry import Stack
from vilam3.data.study import FloatArray

_UID = re.compile(r"(?=.{1,64}$)(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")
_LINE = re.compile(r"[^\x00-\x1f\\]{0,64}")
_NAME = re.compile(r"[^\x00-\x1f\\]{0,200}")
_DATE = re.compile(r"[0-9]{4}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])")
_TIME = re.compile(r"([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9](\.[0-9]{1,6})?)?)?")
# By these a PACS files an object: what the patient and study modules of every object must hold, if only empty. A value
# that is not of its kind is left empty, since no object that others accept could hold it.
IDENTITY = {
    "PatientID": _LINE,
    "PatientName": _NAME,
    "PatientBirthDate": _DATE,
    "PatientSex": re.compile(r"[MFO]"),
    "StudyInstanceUID": _UID,
    "StudyDate": _DATE,
    "StudyTime": _TIME,
    "StudyID": re.compile(r"[^\x00-\x1f\\]{0,16}"),
    "AccessionNumber": re.compile(r"[^\x00-\x1f\\]{0,16}"),
    "ReferringPhysicianName": _NAME,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """One slice of the grid.

    Attributes:
        position_mm: Centre of its first pixel, LPS.
        instance_uid: SOPInstanceUID of the image that lies there; empty where a slice is missing.
        class_uid: SOPClassUID of that image.
        frame: Index of the frame in a multi-frame image.
    """

    position_mm: tuple[float, ...]
    instance_uid: str = ""
    class_uid: str = ""
    frame: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DicomSource:
    """The series a volume was read from.

    Attributes:
        identity: Tags of `IDENTITY` by keyword; hidden from `repr`.
        series_uid: SeriesInstanceUID.
        frame_of_reference_uid: Empty where the file has none.
        modality: The Modality tag.
        rows: Of each slice.
        columns: Of each slice.
        spacing_mm: Between rows, then between columns.
        orientation: Direction of a row, then of a column, LPS.
        thickness_mm: Of a slice, as the files say, or 0 where they do not.
        is_multiframe: Whether the images are frames of enhanced objects.
        planes: In order along the normal.
    """

    identity: dict[str, str] = field(repr=False)
    series_uid: str = field(repr=False)
    frame_of_reference_uid: str = field(repr=False)
    modality: str
    rows: int
    columns: int
    spacing_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    thickness_mm: float
    is_multiframe: bool
    planes: tuple[Plane, ...] = field(repr=False)

    @property
    def is_filed(self) -> bool:
        """Whether the images say what a result would refer to: their study, their series and themselves."""
        named = bool(self.identity.get("StudyInstanceUID") and self.series_uid)
        return named and any(plane.instance_uid for plane in self.planes)

    @property
    def affine_LPS(self) -> FloatArray:  # noqa: N802 - as everywhere
        """Column, row and slice index to LPS millimetres."""
        row, column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        first, last = np.array(self.planes[0].position_mm), np.array(self.planes[-1].position_mm)
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = row * self.spacing_mm[1], column * self.spacing_mm[0]
        steps = len(self.planes) - 1
        affine[:3, 2] = (last - first) / steps if steps else np.cross(row, column) * (self.thickness_mm or 1.0)
        affine[:3, 3] = first
        return affine

    def as_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            **{name: getattr(self, name) for name in self.__slots__ if name != "planes"},
            "planes": [[*plane.position_mm, plane.instance_uid, plane.class_uid, plane.frame] for plane in self.planes],
        }

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> "DicomSource":
        """The inverse of `as_json`."""
        planes = tuple(
            Plane(position_mm=(x, y, z), instance_uid=instance, class_uid=kind, frame=frame)
            for x, y, z, instance, kind, frame in told["planes"]
        )
        tuples = {name: tuple(told[name]) for name in ("spacing_mm", "orientation")}
        return cls(**{**told, **tuples, "planes": planes})


def source_of(headers: Sequence[Dataset], laid: Stack) -> DicomSource:
    """What is to be kept of the files of a series.

    Args:
        headers: One for each file, in the order that the slices' `file` counts.
        laid: Its slices on their grid.
    """
    first, header = laid.slices[0], headers[0]
    return DicomSource(
        identity={keyword: value for keyword, form in IDENTITY.items() if (value := _tag(header, keyword, form))},
        series_uid=_tag(header, "SeriesInstanceUID", _UID),
        frame_of_reference_uid=_tag(header, "FrameOfReferenceUID", _UID),
        modality=text(header, "Modality"),
        rows=first.rows,
        columns=first.columns,
        spacing_mm=tuple(float(value) for value in first.spacing_mm),
        orientation=tuple(float(value) for value in first.orientation),
        thickness_mm=float(first.thickness_mm or 0.0),
        is_multiframe="PerFrameFunctionalGroupsSequence" in header,
        planes=_planes(headers, laid),
    )


def _planes(headers: Sequence[Dataset], laid: Stack) -> tuple[Plane, ...]:
    """Each slice where it is; a missing one where the grid has it."""
    planes = [
        Plane(position_mm=tuple(float(value) for value in (laid.affine_LPS @ (0.0, 0.0, place, 1.0))[:3]))
        for place in range(laid.depth)
    ]
    for place, piece in zip(laid.places, laid.slices, strict=True):
        class_uid = _tag(headers[piece.file], "SOPClassUID", _UID)
        planes[place] = Plane(
            position_mm=tuple(float(value) for value in piece.position_mm),
            # An image of no known kind cannot be referred to.
            instance_uid=_tag(headers[piece.file], "SOPInstanceUID", _UID) if class_uid else "",
            class_uid=class_uid,
            frame=piece.frame,
        )
    return tuple(planes)


def _tag(header: Dataset, keyword: str, form: re.Pattern[str]) -> str:
    """A tag's text, if it is of its form; else nothing."""
    value = text(header, keyword)
    return value if form.fullmatch(value) else ""

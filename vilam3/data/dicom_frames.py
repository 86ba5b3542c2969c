"""Where each frame of a DICOM file lies: classic files in their own tags, enhanced ones in functional groups."""

from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from vilam3.data.dicom_file import number, numbers, translated
from vilam3.data.dicom_geometry import Slice
from vilam3.errors import DataError

# Tag: the functional group that carries it in an enhanced image.
GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}


@dataclass(slots=True)
class PatientSpace:
    """What was noticed while reading geometry, each once."""

    warnings: list[str] = field(default_factory=list)

    def notice(self, warning: str) -> None:
        """Keep a warning unless it is known already."""
        if warning not in self.warnings:
            self.warnings.append(warning)


def frames_of(header: Dataset, *, file: int, num_frames: int, space: PatientSpace, where: str) -> list[Slice]:
    """The frames of one file with their geometry.

    Args:
        header: Of the file.
        file: Its index in the series.
        num_frames: As the header says.
        space: Collects what is odd.
        where: How messages name the file.

    Raises:
        DataError: a tag that geometry needs is missing or no number.
    """
    with translated(where):
        return _frames(header, file=file, num_frames=num_frames, space=space, where=where)


def _frames(header: Dataset, *, file: int, num_frames: int, space: PatientSpace, where: str) -> list[Slice]:
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    if per_frame is None and num_frames > 1:
        raise DataError(f"{where}: {num_frames} frames without their places in the patient; give the original images")
    if per_frame is not None and len(per_frame) != num_frames:
        raise DataError(f"{where}: {num_frames} frames but {len(per_frame)} places in the patient; export it again")
    return [_frame(header, file=file, frame=frame, space=space, where=where) for frame in range(num_frames)]


def _frame(header: Dataset, *, file: int, frame: int, space: PatientSpace, where: str) -> Slice:
    slope = _numbers(header, frame, "RescaleSlope", 1, where)
    intercept = _numbers(header, frame, "RescaleIntercept", 1, where)
    if slope is not None and slope[0] == 0:
        raise DataError(f"{where}: RescaleSlope is 0, which leaves one value everywhere; export it again")
    spacing = _numbers(header, frame, "PixelSpacing", 2, where)
    if spacing is None and (spacing := _numbers(header, frame, "ImagerPixelSpacing", 2, where)) is not None:
        space.notice("pixel spacing is that of the detector, not of the patient; lengths are approximate")
    thickness = _numbers(header, frame, "SpacingBetweenSlices", 1, where)
    thickness = thickness or _numbers(header, frame, "SliceThickness", 1, where)
    return Slice(
        file=file,
        frame=frame,
        rows=int(header.Rows),
        columns=int(header.Columns),
        position_mm=_needed(_numbers(header, frame, "ImagePositionPatient", 3, where), "ImagePositionPatient", where),
        orientation=_needed(
            _numbers(header, frame, "ImageOrientationPatient", 6, where), "ImageOrientationPatient", where
        ),
        spacing_mm=_needed(spacing, "PixelSpacing", where),
        thickness_mm=thickness[0] if thickness else None,
        slope=slope[0] if slope else 1.0,
        intercept=intercept[0] if intercept else 0.0,
    )


def _numbers(header: Dataset, frame: int, keyword: str, count: int, where: str) -> tuple[float, ...] | None:
    """A tag of the frame's own group, of the shared group, or of the file, whichever is found first."""
    for owner in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        groups = header.get(owner)
        if not groups or keyword not in GROUPS:
            continue
        group = groups[frame if owner.startswith("Per") else 0].get(GROUPS[keyword])
        if group:
            found = numbers(group[0], keyword, count=count, where=where)
            if found is not None:
                return found
    if count == 1:
        value = number(header, keyword, where=where)
        return None if value is None else (value,)
    return numbers(header, keyword, count=count, where=where)


def _needed(values: tuple[float, ...] | None, keyword: str, where: str) -> tuple[float, ...]:
    if values is None:
        raise DataError(f"{where}: {keyword} is missing, so its place in the patient is unknown; export it again")
    return values

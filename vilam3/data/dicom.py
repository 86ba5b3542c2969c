"""DICOM in: a file, or the files of one patient, become a `Study` in RAS.

A study is one series, or the four MR sequences of one examination. Nothing that identifies the patient leaves this
module but in a volume study's `source`: a series is called by a digest of its UID, files by their number.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from vilam3.data import dicom_file
from vilam3.data.dicom_frames import PatientSpace, frames_of
from vilam3.data.dicom_geometry import Slice, Stack, stack
from vilam3.data.dicom_radiograph import read_radiograph
from vilam3.data.dicom_source import DicomSource, source_of
from vilam3.data.geometry import LPS_TO_RAS, check_affine, ras_volume, same_grid
from vilam3.data.limits import Limits
from vilam3.data.sample import Modality
from vilam3.data.sequences import MR_SEQUENCES, four_of, sequence_of_text, sequence_of_timing
from vilam3.data.study import Study, Volume, study_of
from vilam3.errors import DataError

VOLUMES: dict[str, Modality] = {"CT": "CT", "MR": "MRI"}
CHEST_PARTS = ("CHEST", "THORAX", "LUNG", "")
RADIOGRAPHS = ("CR", "DX", "RG")
FLAT: dict[str, Modality] = {"MG": "Unknown", "US": "US", "OT": "Unknown", "SC": "Unknown", "XC": "Unknown"}
IDENTITY = ("PatientID", "PatientName", "PatientBirthDate")
NO_AGENT = {"", "none", "no", "n", "0"}
NAMED_SERIES = 8
NAMES_OF_SEQUENCES = ("SeriesDescription", "ProtocolName", "SequenceName")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _File:
    """One file, its header read."""

    path: Path
    header: Dataset
    where: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Series:
    """Files of one SeriesInstanceUID."""

    name: str
    files: tuple[_File, ...]
    warnings: list[str] = field(default_factory=list)

    @property
    def tag(self) -> str:
        """The Modality tag."""
        return dicom_file.text(self.files[0].header, "Modality")


def read_files(
    paths: Sequence[Path],
    *,
    modality: Modality | None,
    series: str | None,
    limits: Limits,
    where: str,
    notes: Sequence[str] = (),
) -> Study:
    """Read DICOM files of one patient.

    Args:
        paths: The files, in any order.
        modality: Overrides the Modality tag.
        series: Which series, by the name that messages give it.
        limits: Checked before decoding.
        where: How messages name the input.
        notes: Warnings the study carries anyway.

    Raises:
        DataError: no image, two patients, several series, a geometry or pixels that cannot be used.
        TooLargeError: beyond the limits.
    """
    files, warnings = _images(paths, limits, where)
    _check_one_patient(files, where)
    every = _by_series(files)
    if series is not None:
        every = [found for found in every if found.name == series]
        if not every:
            raise DataError(f"{where}: has no series named {series[:40]!r}; leave it out to see the names")
    four = _four_sequences(every, modality)
    if four is not None:
        return _read_four(four, len(every), limits, where, [*notes, *warnings])
    if len(every) > 1:
        names = ", ".join(f"{one.name} ({one.tag or '?'}, {len(one.files)} files)" for one in every[:NAMED_SERIES])
        more = ", ..." if len(every) > NAMED_SERIES else ""
        raise DataError(f"{where}: holds {len(every)} series; say which one: {names}{more}")
    return _read_one(every[0], modality, limits, where, [*notes, *warnings])


def _images(paths: Sequence[Path], limits: Limits, where: str) -> tuple[list[_File], list[str]]:
    """Headers of the files that hold images; a lone file that holds none is an error."""
    files = []
    for number, path in enumerate(paths, start=1):
        place = where if len(paths) == 1 else f"{where}: file {number} of {len(paths)}"
        header = dicom_file.read_header(path, limits=limits, where=place)
        if "Rows" in header and "Columns" in header:
            files.append(_File(path=path, header=header, where=place))
    if not files:
        raise DataError(f"{where}: holds no DICOM image (no Rows and Columns); give CT, MR or X-ray images")
    num_without = len(paths) - len(files)
    return files, [f"{num_without} DICOM files hold no image and were passed over"] if num_without else []


def _check_one_patient(files: Sequence[_File], where: str) -> None:
    for keyword in IDENTITY:
        values = {"".join(dicom_file.text(file.header, keyword).upper().replace("^", " ").split()) for file in files}
        num_patients = len(values - {""})
        if num_patients > 1:
            raise DataError(
                f"{where}: images of {num_patients} patients are mixed ({keyword} differs); give one patient's images"
            )


def _by_series(files: Sequence[_File]) -> list[_Series]:
    groups: dict[str, list[_File]] = {}
    for file in files:
        groups.setdefault(dicom_file.text(file.header, "SeriesInstanceUID"), []).append(file)
    return sorted((_series(uid, group) for uid, group in groups.items()), key=lambda found: found.name)


def _series(uid: str, files: Sequence[_File]) -> _Series:
    """One series without copies and without the localizers stored with it."""
    unique: dict[str, _File] = {}
    for number, file in enumerate(files):
        unique.setdefault(dicom_file.text(file.header, "SOPInstanceUID") or str(number), file)
    slices = [file for file in unique.values() if "LOCALIZER" not in dicom_file.text(file.header, "ImageType").upper()]
    kept = slices or list(unique.values())
    warnings = []
    if len(unique) < len(files):
        warnings.append(f"{len(files) - len(unique)} files were copies of others and were passed over")
    if len(kept) < len(unique):
        warnings.append(f"{len(unique) - len(kept)} localizer images were passed over")
    digest = hashlib.sha256(uid.encode()).hexdigest()[:12]
    return _Series(name=f"series-{digest}", files=tuple(kept), warnings=warnings)


def _kind(series: _Series, modality: Modality | None) -> tuple[Literal["volume", "flat"], Modality]:
    """What to make of a series: the caller's word, else its Modality tag."""
    if modality in {"CXR", "US"}:
        return "flat", modality
    tag = series.tag
    if tag in VOLUMES or modality in {"CT", "MRI"}:
        return "volume", modality or VOLUMES[tag]
    if tag in RADIOGRAPHS:
        part = dicom_file.text(series.files[0].header, "BodyPartExamined").upper()
        return "flat", modality or ("CXR" if part in CHEST_PARTS else "Unknown")
    if tag in FLAT:
        return "flat", modality or FLAT[tag]
    found = repr(tag[:4]) if tag.isalnum() else "missing or unknown"
    raise DataError(f"{series.files[0].where}: Modality is {found}; CT, MR and X-ray images are read, say which it is")


def _sequence(series: _Series) -> str:
    header = series.files[0].header
    agent = dicom_file.text(header, "ContrastBolusAgent").lower() not in NO_AGENT
    agent = agent or bool(header.get("ContrastBolusAgentSequence"))  # where enhanced images say it
    described = " ".join(dicom_file.text(header, keyword) for keyword in NAMES_OF_SEQUENCES)
    times = {
        name: dicom_file.number(header, keyword, where=series.files[0].where)
        for name, keyword in (
            ("echo_ms", "EchoTime"),
            ("repetition_ms", "RepetitionTime"),
            ("inversion_ms", "InversionTime"),
        )
    }
    return sequence_of_text(described, contrast_agent=agent) or sequence_of_timing(**times, contrast_agent=agent)


def _four_sequences(every: Sequence[_Series], modality: Modality | None) -> tuple[_Series, ...] | None:
    """The t1c, t1, t2 and flair series, if the study is MR and has each of them exactly once."""
    mr = [series for series in every if series.tag == "MR"]
    if modality not in {None, "MRI"} or len(mr) < len(MR_SEQUENCES):
        return None
    return four_of((_sequence(series), series) for series in mr)


def _read_four(four: Sequence[_Series], num_series: int, limits: Limits, where: str, warnings: list[str]) -> Study:
    volumes: list[Volume] = []
    sources: list[DicomSource] = []
    for sequence, series in zip(MR_SEQUENCES, four, strict=True):
        volume, source, noticed = _read_volume(series, limits, f"{where}: the {sequence} series", sequence)
        if volumes and not same_grid(volumes[0], volume):
            raise DataError(
                f"{where}: the {sequence} and {MR_SEQUENCES[0]} series lie on different grids; register and resample "
                f"them to one grid, or choose one series: {', '.join(found.name for found in four)}"
            )
        volumes.append(volume)
        sources.append(source)
        warnings += [f"{sequence}: {text}" for text in noticed]
    if num_series > len(four):
        warnings.append(f"{num_series - len(four)} other series of the study were passed over")
    joint = hashlib.sha256(" ".join(series.name for series in four).encode()).hexdigest()[:12]
    named = f"series-{joint}"
    return study_of(modality="MRI", volumes=volumes, series=named, warnings=warnings, source=sources[0])


def _read_one(series: _Series, modality: Modality | None, limits: Limits, where: str, warnings: list[str]) -> Study:
    kind, chosen = _kind(series, modality)
    if kind == "volume":
        sequence = _sequence(series) if chosen == "MRI" else ""
        volume, source, noticed = _read_volume(series, limits, where, sequence)
        if chosen == "CT" and all(file.header.get("RescaleSlope") is None for file in series.files):
            noticed = [*noticed, *_unscaled(series)]
        said = [*warnings, *noticed]
        return study_of(modality=chosen, volumes=(volume,), series=series.name, warnings=said, source=source)
    if len(series.files) > 1:
        raise DataError(f"{where}: the series holds {len(series.files)} pictures; give one at a time")
    only = series.files[0]
    grey_HW, noticed = read_radiograph(only.path, only.header, limits=limits, where=only.where)
    return study_of(
        modality=chosen, radiograph_HW=grey_HW, series=series.name, warnings=[*warnings, *series.warnings, *noticed]
    )


def _unscaled(series: _Series) -> list[str]:
    if "PerFrameFunctionalGroupsSequence" in series.files[0].header:
        return []  # enhanced images carry it per frame
    return ["the file does not say how to scale to Hounsfield units; its values are taken as they are"]


def _read_volume(series: _Series, limits: Limits, where: str, sequence: str) -> tuple[Volume, DicomSource, list[str]]:
    slices: list[Slice] = []
    space = PatientSpace()
    for index, file in enumerate(series.files):
        num_frames = dicom_file.check_pixels(file.header, limits=limits, where=file.where)
        slices += frames_of(file.header, file=index, num_frames=num_frames, space=space, where=file.where)
    laid = stack(slices, where=where)
    first = laid.slices[0]
    limits.check_voxels((first.columns, first.rows, laid.depth), where=where)
    affine_RAS = LPS_TO_RAS @ laid.affine_LPS
    check_affine(affine_RAS, where=where)
    voxels_KJI = _voxels(series, laid, limits)
    if not np.isfinite(voxels_KJI).all():
        raise DataError(f"{where}: rescaled values are not finite; export the series again")
    volume = ras_volume(voxels_KJI.transpose(2, 1, 0), affine_RAS, sequence=sequence)
    with dicom_file.translated(where):
        source = source_of([file.header for file in series.files], laid)
    return volume, source, [*series.warnings, *laid.warnings, *space.warnings]


def _voxels(series: _Series, laid: Stack, limits: Limits) -> NDArray[np.float32]:
    """Rescaled values, slices x rows x columns; missing slices lie on the line between their neighbours."""
    first = laid.slices[0]
    voxels_KJI = np.empty((laid.depth, first.rows, first.columns), dtype=np.float32)
    by_file: dict[int, list[tuple[int, Slice]]] = {}
    for place, piece in zip(laid.places, laid.slices, strict=True):
        by_file.setdefault(piece.file, []).append((place, piece))
    for index, pieces in by_file.items():
        file = series.files[index]
        stored = dicom_file.read_frames(file.path, file.header, limits=limits, where=file.where)
        with np.errstate(over="ignore", invalid="ignore"):  # the caller refuses what is not finite
            for place, piece in pieces:
                voxels_KJI[place] = stored[piece.frame] * np.float32(piece.slope) + np.float32(piece.intercept)
    for low, high in zip(laid.places, laid.places[1:], strict=False):
        for place in range(low + 1, high):
            share = np.float32((place - low) / (high - low))
            voxels_KJI[place] = voxels_KJI[low] * (1 - share) + voxels_KJI[high] * share
    return voxels_KJI

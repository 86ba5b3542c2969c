"""The one way in: whatever a person sends becomes a `Study`, or one sentence says why not.

What a file is follows from its content, not from its name. Names of files within folders and archives never appear in
messages, because they may hold a patient's; such a file is called by its number in the sorted list.
"""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vilam3.data import archive, dicom, nifti, picture
from vilam3.data.dicom_file import is_dicom
from vilam3.data.geometry import same_grid
from vilam3.data.limits import Limits
from vilam3.data.sample import Modality
from vilam3.data.sequences import MR_SEQUENCES, four_of, sequence_of_text
from vilam3.data.study import Study, Volume, study_of
from vilam3.errors import DataError, TooLargeError

__all__ = ["Limits", "read_study"]

Kind = Literal["dicom", "nifti", "picture", "zip", "other"]

DEFAULT_LIMITS = Limits()
HEAD_BYTES = 540
VOLUME_MODALITIES = ("CT", "MRI", "US", "Unknown")
# What a file claims to be by its name; if its content is something else, that is an error, not a file to pass over.
CLAIMS = (".dcm", ".dicom", ".nii", ".nii.gz", ".hdr", ".png", ".jpg", ".jpeg", ".zip")
LABEL_WORDS = ("seg", "label", "mask")
LEAST_HU_SEEN = -200.0  # air is in every clinical CT; a volume without it is probably not in HU
GREATEST_HU_SEEN = 10_000.0
_KNOWN = "a DICOM file, a folder or zip of DICOM files, NIfTI (.nii, .nii.gz, .hdr with .img), PNG or JPEG"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What the caller asked for, passed down unchanged."""

    modality: Modality | None
    series: str | None
    limits: Limits


def read_study(
    path: Path,
    *,
    modality: Modality | None = None,
    series: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Study:
    """Read a DICOM file, a folder or zip, NIfTI, PNG or JPEG.

    Args:
        path: File or folder.
        modality: Overrides what the file says or its name suggests.
        series: Which DICOM series, as the message of an ambiguous study names them.
        limits: Checked before decoding.

    Raises:
        DataError: it cannot be used; the message says why and what to do.
        TooLargeError: beyond the limits.
    """
    request = _Request(modality=modality, series=series, limits=limits)
    try:
        if path.is_dir():
            return _read_folder(path, request, path.name)
        if not path.is_file():
            raise DataError(f"{path}: no such file or folder; give {_KNOWN}")
        return _read_file(path, request, path.name)
    except PermissionError as error:
        raise DataError(f"{path}: not readable by this user; change its permissions") from error


def _read_file(path: Path, request: _Request, where: str) -> Study:
    request.limits.check_bytes(path.stat().st_size, where=where)
    kind = _kind(path)
    if kind == "zip":
        with archive.unpacked(path, limits=request.limits, where=where) as folder:
            return _read_folder(folder, request, where)
    if kind == "other":
        raise _unknown(path, where)
    return _read_kind(kind, [path], request, where)


def _read_folder(folder: Path, request: _Request, where: str) -> Study:
    files = _files(folder, request.limits, where)
    by_kind: dict[Kind, list[Path]] = {}
    for number, file in enumerate(files, start=1):
        kind = _kind(file)
        if kind == "zip" or (kind == "other" and file.name.lower().endswith(CLAIMS)):
            raise _unknown(file, f"{where}: file {number} of {len(files)}")
        by_kind.setdefault(kind, []).append(file)
    num_other = len(by_kind.pop("other", ()))
    if not by_kind:
        raise DataError(f"{where}: holds no image; give {_KNOWN}")
    if len(by_kind) > 1:
        raise DataError(f"{where}: mixes {' and '.join(sorted(by_kind))} files; give one kind")
    ((kind, chosen),) = by_kind.items()
    notes = [f"{num_other} files are not images and were passed over"] if num_other else []
    return _read_kind(kind, chosen, request, where, notes)


def _read_kind(kind: Kind, files: list[Path], request: _Request, where: str, notes: Sequence[str] = ()) -> Study:
    if kind == "dicom":
        return dicom.read_files(
            files, modality=request.modality, series=request.series, limits=request.limits, where=where, notes=notes
        )
    if kind == "nifti":
        return _read_nifti(files, request, where, notes)
    if len(files) > 1:
        raise DataError(f"{where}: holds {len(files)} pictures; give one at a time")
    return _read_picture(files[0], request, where, notes)


def _read_nifti(files: list[Path], request: _Request, where: str, notes: Sequence[str]) -> Study:
    images = [file for file in files if not _is_label(file)] if len(files) > 1 else files
    if len(images) == 1:
        return _read_single_nifti(images[0], request, where, notes)
    four = four_of((sequence_of_text(_stem(file)), file) for file in images)
    if four is None:
        raise DataError(
            f"{where}: holds {len(images)} NIfTI volumes; give one, or exactly the four MR sequences with "
            "t1c (or t1ce), t1, t2 and flair in the file names"
        )
    if request.modality not in {None, "MRI"}:
        raise DataError(f"{where}: four MR sequences cannot be read as {request.modality}; leave the modality out")
    volumes, warnings = [], list(notes)
    for sequence, file in zip(MR_SEQUENCES, four, strict=True):
        volume, noticed = nifti.read_volume(
            file, limits=request.limits, where=f"{where}: the {sequence} volume", sequence=sequence
        )
        volumes.append(volume)
        warnings += [f"{sequence}: {text}" for text in noticed]
    _check_one_grid(volumes, where)
    return study_of(modality="MRI", volumes=volumes, warnings=warnings)


def _read_single_nifti(file: Path, request: _Request, where: str, notes: Sequence[str]) -> Study:
    if request.modality not in {None, *VOLUME_MODALITIES}:
        raise DataError(f"{where}: a volume cannot be read as {request.modality}; choose CT or MRI")
    sequence = sequence_of_text(_stem(file))
    volume, noticed = nifti.read_volume(file, limits=request.limits, where=where, sequence=sequence)
    warnings = [*notes, *noticed]
    modality = request.modality or _modality_of_volume(volume, file.name, warnings)
    if modality != "MRI":
        volume = replace(volume, sequence="")
    return study_of(modality=modality, volumes=(volume,), warnings=warnings)


def _read_picture(file: Path, request: _Request, where: str, notes: Sequence[str]) -> Study:
    found = picture.read_picture(file, limits=request.limits, where=where)
    modality: Modality = request.modality or ("CXR" if "cxr_" in file.name.lower() else "Unknown")
    return study_of(modality=modality, radiograph_HW=found.grey_HW, picture_HWC=found.rgb_HWC, warnings=notes)


def _check_one_grid(volumes: Sequence[Volume], where: str) -> None:
    for volume in volumes[1:]:
        if not same_grid(volumes[0], volume):
            raise DataError(
                f"{where}: the {volume.sequence} and {volumes[0].sequence} volumes lie on different grids; "
                "register and resample them to one grid, or give one sequence"
            )


def _modality_of_volume(volume: Volume, name: str, warnings: list[str]) -> Modality:
    """NIfTI does not say: `mri_` or a sequence in the name is MRI, all else CT as published, if it can be in HU."""
    if "mri_" in name.lower() or volume.sequence:
        return "MRI"
    voxels = volume.voxels_XYZ
    if voxels.min() <= LEAST_HU_SEEN and voxels.max() <= GREATEST_HU_SEEN:
        return "CT"
    warnings.append("neither the file nor its name states the modality; its values are not in HU, so MRI is assumed")
    return "MRI"


def _files(folder: Path, limits: Limits, where: str) -> list[Path]:
    """All files below a folder in sorted order, hidden ones and folders behind links left out."""
    found: list[Path] = []
    for here, folders, names in os.walk(folder):
        if len(Path(here).relative_to(folder).parts) > limits.max_depth:
            raise TooLargeError(
                f"{where}: folders lie more than {limits.max_depth} deep; give the folder of one series"
            )
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        found += [Path(here, name) for name in names if not name.startswith(".")]
        limits.check_files(len(found), where=where)
    files = sorted(file for file in found if file.is_file())
    if files:
        limits.check_bytes(max(1, sum(file.stat().st_size for file in files)), where=where)
    # An .img is read through its .hdr.
    heads = {file for file in files if file.name.lower().endswith((".hdr", ".hdr.gz"))}
    return [file for file in files if nifti.header_file(file) == file or nifti.header_file(file) not in heads]


def _kind(path: Path) -> Kind:
    head = _head(path)
    if archive.is_zip(head):
        return "zip"
    if picture.is_picture(head):
        return "picture"
    if is_dicom(head):
        return "dicom"
    return "nifti" if nifti.is_nifti(_unpacked_head(path)) or nifti.header_file(path) != path else "other"


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(HEAD_BYTES)


def _unpacked_head(path: Path) -> bytes:
    try:
        with nifti.opened(path) as stream:
            return stream.read(HEAD_BYTES)
    except (OSError, EOFError, zlib.error):  # not gzip after all, or cut: the content says nothing
        return b""


def _unknown(path: Path, where: str) -> DataError:
    if path.stat().st_size == 0:
        return DataError(f"{where}: the file is empty (0 bytes); the transfer was probably cut, send it again")
    claim = next((suffix for suffix in CLAIMS if path.name.lower().endswith(suffix)), "")
    if claim == ".zip" or archive.is_zip(_head(path)):
        return DataError(f"{where}: an archive within a folder or archive; unpack it first")
    named = f"named {claim}, but its content is not" if claim else "its content is none"
    return DataError(f"{where}: {named} of the kinds this reads; give {_KNOWN}")


def _is_label(path: Path) -> bool:
    return any(word in _stem(path).lower() for word in LABEL_WORDS)


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".gz", ".nii", ".hdr", ".img"):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name

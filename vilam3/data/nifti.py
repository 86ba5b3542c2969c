"""NIfTI-1 and NIfTI-2 in and out: `.nii`, `.nii.gz`, and `.hdr` with `.img`.

The header is checked before a voxel is decoded. Plain Analyze 7.5 is refused, because it does not say which side is
left. Knows no modality.
"""

import contextlib
import gzip
import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from vilam3.artifacts import whole_file
from vilam3.data.geometry import check_affine, ras_volume, reorient
from vilam3.data.limits import Limits
from vilam3.data.study import FloatArray, Volume
from vilam3.errors import ArtifactError, DataError

GZIP_MAGIC = b"\x1f\x8b"
NIFTI1_MAGICS = (b"n+1\0", b"ni1\0")
NIFTI2_MAGICS = (b"n+2\0", b"ni2\0")
ANALYZE_STARTS = (b"\x5c\x01\0\0", b"\0\0\x01\x5c")
LATEST_DATA_OFFSET = 16 << 20  # extensions lie before the voxels; more than this is not a medical image
GREATEST_VALUE = 1e30  # beyond, differences overflow float32
FAST_GZIP = 1  # voxels are mostly noise: higher levels take thrice the time for a few per cent
COMMENT = 6  # code of a header extension that holds plain text
UNITS_TO_MM = {"meter": 1000.0, "micron": 0.001}
_CUT = "the file is damaged or was cut in transfer; send it again"

# nibabel mends odd headers and says so on stderr; what matters is checked here and told with the study.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


def is_nifti(head: bytes) -> bool:
    """Whether the first 352 bytes (unpacked) are a NIfTI header or one of plain Analyze."""
    return head[344:348] in NIFTI1_MAGICS or head[4:8] in NIFTI2_MAGICS or head[:4] in ANALYZE_STARTS


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """Yield the file's bytes, unpacked if they are gzip, whatever its name says."""
    with path.open("rb") as raw:
        packed = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        if not packed:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
            yield stream


def read_volume(path: Path, *, limits: Limits, where: str, sequence: str = "") -> tuple[Volume, tuple[str, ...]]:
    """Read one volume into RAS order.

    Of a 4-D file the first volume is read, and a warning says so. Voxels that are not finite become the least finite
    value, with a warning.

    Args:
        path: The file; for a pair either of the two.
        limits: Checked against the header, before decoding.
        where: How messages name the file.
        sequence: MR sequence, if the caller knows it.

    Returns:
        The volume and what was noticed.

    Raises:
        DataError: not NIfTI, damaged, without usable geometry, colour or complex values.
        TooLargeError: more voxels than the limits allow.
    """
    limits.check_bytes(path.stat().st_size, where=where)
    try:
        return _read(path, limits, where, sequence)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(
            f"{where}: a .hdr needs its .img of the same name beside it, and the other way round"
        ) from error
    except Exception as error:  # parsers of hostile bytes raise anything; this is the boundary
        raise DataError(f"{where}: not readable as NIfTI; {_CUT}") from error


def write_volume(
    path: Path, volume: Volume, *, display: tuple[float, float] | None = None, durable: bool = True
) -> None:
    """Write a volume as `.nii` or `.nii.gz` in the axes it was stored in; whole numbers as int16, else float32.

    Args:
        path: Where to.
        volume: Voxels and geometry; nothing else of a study comes into the file.
        display: Intensities that viewers show as black and as white, for the header.
        durable: Whether it must survive a power cut.

    Raises:
        ArtifactError: it cannot be written.
    """
    voxels = volume.voxels_XYZ
    whole = bool((voxels == np.rint(voxels)).all()) and voxels.min() >= -(2**15) and voxels.max() < 2**15
    typed = voxels.astype(np.int16 if whole else np.float32)
    _write(path, typed, like=volume, display=display, durable=durable)


def write_label_map(
    path: Path,
    ids_XYZ: NDArray[np.uint8],
    *,
    like: Volume,
    names: Mapping[int, str] | None = None,
    durable: bool = True,
) -> None:
    """Write a segmentation on the grid of the volume it belongs to, in the axes that volume was stored in.

    Args:
        path: The file, `.nii` or `.nii.gz`.
        ids_XYZ: Label ids.
        like: The volume.
        names: Of the label ids; kept in a comment of the header, where `read_label_map` finds them.
        durable: Whether it must outlast a power cut.

    Raises:
        DataError: the grids differ.
        ArtifactError: it cannot be written.
    """
    if ids_XYZ.shape != like.voxels_XYZ.shape:
        raise DataError(f"{path.name}: labels of shape {ids_XYZ.shape} on a volume of {like.voxels_XYZ.shape}")
    _write(path, ids_XYZ.astype(np.uint8), like=like, durable=durable, names=names)


def read_label_map(content: bytes) -> tuple[NDArray[np.uint8], FloatArray, dict[int, str]]:
    """A segmentation that `write_label_map` wrote: label ids in RAS order, their affine, and names of the ids.

    Raises:
        ArtifactError: it is damaged.
    """
    try:
        image = nib.Nifti1Image.from_bytes(gzip.decompress(content) if content[:2] == GZIP_MAGIC else content)
        stored = np.asarray(image.dataobj, dtype=np.uint8)
        ids_XYZ, affine = reorient(stored, np.asarray(image.affine, dtype=np.float64), axes="RAS")
        told: dict[str, Any] = {}
        for extension in image.header.extensions:
            if extension.get_code() == COMMENT:
                told = json.loads(bytes(extension.content).rstrip(b"\0"))["labels"]
        return np.ascontiguousarray(ids_XYZ), affine, {int(label_id): str(name) for label_id, name in told.items()}
    except Exception as error:  # whatever a damaged file makes nibabel raise
        raise ArtifactError("mask: the kept segmentation is damaged; ask again") from error


def _write(
    path: Path,
    voxels_XYZ: NDArray[Any],
    *,
    like: Volume,
    durable: bool,
    names: Mapping[int, str] | None = None,
    display: tuple[float, float] | None = None,
) -> None:
    voxels, affine = reorient(voxels_XYZ, like.affine_RAS, axes=like.stored_axes)
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner", strip_shears=True)
    if names:
        labels = json.dumps({"labels": {str(label_id): name for label_id, name in sorted(names.items())}})
        image.header.extensions.append(nib.nifti1.Nifti1Extension(COMMENT, labels.encode()))
    if display is not None:
        image.header["cal_min"], image.header["cal_max"] = display
    with whole_file(path, durable=durable) as partial, partial.open("wb") as raw:
        if path.name.endswith(".gz"):
            # no name and no time in the gzip header: the same voxels give the same bytes
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=FAST_GZIP) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(raw)


def _read(path: Path, limits: Limits, where: str, sequence: str) -> tuple[Volume, tuple[str, ...]]:
    header = _header(header_file(path), where)
    warnings: list[str] = []
    shape = _shape(header, limits, where)
    affine = _affine(header, warnings, where)
    voxels = _finite(_voxels(_data_file(path, header), header, warnings).reshape(shape), warnings, where)
    return ras_volume(voxels, affine, sequence=sequence), tuple(warnings)


def header_file(path: Path) -> Path:
    """The file with the header: itself, or the `.hdr` of an `.img`."""
    return _beside(path, "img", "hdr")


def _data_file(path: Path, header: nib.Nifti1Header) -> Path:
    """The file with the voxels: itself, or the `.img` of a `.hdr`."""
    return path if header.is_single else _beside(path, "hdr", "img")


def _beside(path: Path, this: str, other: str) -> Path:
    for suffix in (f".{this}", f".{this}.gz"):
        if path.name.lower().endswith(suffix):
            return path.with_name(path.name[: -len(suffix)] + suffix.replace(this, other))
    return path


def _header(path: Path, where: str) -> nib.Nifti1Header:
    with opened(path) as stream:
        head = stream.read(540)
    if head[344:348] in NIFTI1_MAGICS:
        kind = nib.Nifti1Header if head[344:348] == NIFTI1_MAGICS[0] else nib.nifti1.Nifti1PairHeader
        return kind(head[:348], check=False)
    if head[4:8] in NIFTI2_MAGICS:
        kind = nib.Nifti2Header if head[4:8] == NIFTI2_MAGICS[0] else nib.nifti2.Nifti2PairHeader
        return kind(head, check=False)
    if is_nifti(head):
        raise DataError(f"{where}: plain Analyze 7.5, which does not say which side is left; convert it to NIfTI")
    raise DataError(f"{where}: not a NIfTI file; {_CUT}")


def _shape(header: nib.Nifti1Header, limits: Limits, where: str) -> tuple[int, int, int]:
    """The first volume's shape, from a header of which nothing else is believed yet."""
    shape = tuple(int(size) for size in header.get_data_shape())
    if len(shape) < 2:  # noqa: PLR2004 - rows and columns at least
        raise DataError(f"{where}: {len(shape)} axes; a volume has three")
    if any(size < 1 for size in shape):
        raise DataError(f"{where}: an axis of size {min(shape)}; {_CUT}")
    x, y, z = (*shape, 1)[:3]
    limits.check_voxels((x, y, z), where=where)
    if header.get_data_dtype().kind not in "iuf":
        raise DataError(f"{where}: colour or complex voxels; only a volume with one number per voxel can be read")
    if not 0 <= float(header["vox_offset"]) <= LATEST_DATA_OFFSET:
        raise DataError(f"{where}: the header says that voxels start at an impossible place; {_CUT}")
    return x, y, z


def _affine(header: nib.Nifti1Header, warnings: list[str], where: str) -> NDArray[np.float64]:
    """The affine in millimetres, the sform before the qform; what is odd about it goes to `warnings`."""
    sform, qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not sform and not (np.asarray(header["pixdim"][1:4], dtype=float) > 0).all():
        raise DataError(f"{where}: voxels of zero or negative size; every edge must be above 0 mm; export it again")
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    if not sform and not qform:
        warnings.append("the file does not say how the patient lies; left and right are assumed, not known")
    if sform and qform and not np.allclose(affine, header.get_qform(), rtol=1e-3, atol=0.05):
        warnings.append("the file gives two different geometries (sform and qform); the sform is used")
    unit = UNITS_TO_MM.get(header.get_xyzt_units()[0])
    if unit is not None:
        affine = np.diag([unit, unit, unit, 1.0]) @ affine
        warnings.append("the file's lengths are not in millimetres; they were converted")
    check_affine(affine, where=where)
    return affine


def _voxels(path: Path, header: nib.Nifti1Header, warnings: list[str]) -> NDArray[np.float32]:
    """The first volume's intensities, slope and intercept applied.

    Only the bytes the header promises are unpacked. Header extensions, whose sizes a hostile file chooses, are not
    read.
    """
    with opened(path) as stream, np.errstate(over="ignore", invalid="ignore"):  # what overflows is found afterwards
        proxy = nib.arrayproxy.ArrayProxy(stream, header, mmap=False)
        frames = proxy.shape[3:]
        if math.prod(frames) == 1:
            return np.asarray(proxy, dtype=np.float32)
        warnings.append(f"the file holds {math.prod(frames)} volumes; only the first is used")
        return np.asarray(proxy[(..., *[0] * len(frames))], dtype=np.float32)


def _finite(voxels: NDArray[np.float32], warnings: list[str], where: str) -> NDArray[np.float32]:
    good = np.isfinite(voxels) & (np.abs(voxels) < GREATEST_VALUE)
    num_bad = voxels.size - int(np.count_nonzero(good))
    if not num_bad:
        return voxels
    if num_bad == voxels.size:
        raise DataError(f"{where}: no voxel holds a finite value; export it again")
    warnings.append(f"{num_bad} voxels held no finite value (NaN or infinite); they are shown as the least value")
    return np.where(good, voxels, voxels[good].min()).astype(np.float32)

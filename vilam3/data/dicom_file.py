"""One DICOM file: its header, its stored values, and nothing of its patient in any message.

pydicom's errors and log lines quote tag values, so neither is ever passed on: what goes wrong is said in our words, and
the original exception is cut off. Knows no geometry and no series.
"""

import contextlib
import logging
import math
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from vilam3.data import dicom_jpeg
from vilam3.data.codestream import codestream_size
from vilam3.data.limits import Limits
from vilam3.errors import DataError, TooLargeError

PREAMBLE_BYTES = 128
MAGIC = b"DICM"
# Groups a file without preamble may start with: 0002 (file meta) and 0008 (identification).
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
GREY = {"MONOCHROME1", "MONOCHROME2"}
MOST_FRAMES = 100_000
RUST = "pyo3_runtime"  # module of what a decoder written in Rust raises when it panics, which is no `Exception`
_CUT = "the file is damaged or was cut in transfer; send it again"

# Both quote values of tags, patients' names among them; what matters is checked here.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
dicom_jpeg.install()


def is_dicom(head: bytes) -> bool:
    """Whether a file starts like DICOM, with or without its preamble."""
    if head[PREAMBLE_BYTES : PREAMBLE_BYTES + len(MAGIC)] == MAGIC:
        return True
    # the element number is low, so one of its bytes is zero: no text starts like this
    return head[:2] in FIRST_GROUPS and len(head) > 8 and 0 in head[2:4]  # noqa: PLR2004 - one element's header


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn whatever a damaged file makes pydicom raise into a `DataError` that quotes nothing of it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__ != RUST:
            raise
        # Parsers and decoders of hostile bytes raise anything. `from None`: they may quote the patient's name.
        raise DataError(f"{where}: not readable as DICOM; {_CUT}") from None


def read_header(path: Path, *, limits: Limits, where: str) -> Dataset:
    """Everything but the pixels.

    Raises:
        DataError: not DICOM, or damaged.
        TooLargeError: beyond the limits.
    """
    limits.check_bytes(path.stat().st_size, where=where)
    with translated(where):
        _check_deflated(path, limits, where)
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        for _ in header.iterall():
            pass  # elements are decoded when first looked at: do it here, where failure is expected
    return header


def read_frames(path: Path, header: Dataset, *, limits: Limits, where: str) -> NDArray[Any]:
    """Stored values of all frames, before any rescaling.

    Args:
        path: The file.
        header: As `read_header` gave it.
        limits: Checked against the header, and against the compressed stream's own, before decoding.
        where: How messages name the file.

    Returns:
        Integers of shape frames x rows x columns.

    Raises:
        DataError: damaged, without pixels, or in colour.
        TooLargeError: beyond the limits.
    """
    frames = check_pixels(header, limits=limits, where=where)
    with translated(where):
        whole = pydicom.dcmread(path, force=True)
        if "PixelData" not in whole:
            raise DataError(f"{where}: the file holds no pixel values; {_CUT}")
        if "TransferSyntaxUID" not in whole.file_meta:
            # Standard default for a file that does not say, unless it plainly was read otherwise.
            whole.file_meta.TransferSyntaxUID = _guessed_syntax(whole)
        _check_codestream(whole, frames, limits, where)
        stored = np.asarray(whole.pixel_array)
    rows, columns = int(header.Rows), int(header.Columns)
    if stored.size != frames * rows * columns:
        raise DataError(f"{where}: fewer or more pixels than the header says; {_CUT}")
    return _masked(stored, header).reshape(frames, rows, columns)


def check_pixels(header: Dataset, *, limits: Limits, where: str) -> int:
    """Check what the header says of the pixels; gives the number of frames."""
    rows, columns = _count(header, "Rows", where), _count(header, "Columns", where)
    limits.check_pixels(rows, columns, where=where)
    frames = _count(header, "NumberOfFrames", where, default=1)
    if frames > MOST_FRAMES:
        raise TooLargeError(f"{where}: {frames:,} frames, more than the limit of {MOST_FRAMES:,}; send fewer")
    limits.check_voxels((columns, rows, frames), where=where)
    samples = _count(header, "SamplesPerPixel", where, default=1)
    if samples != 1 or text(header, "PhotometricInterpretation") not in GREY:
        raise DataError(f"{where}: a colour or palette DICOM image; only grey ones are read, export it as PNG or JPEG")
    if _count(header, "BitsAllocated", where) not in {8, 16, 32}:
        raise DataError(f"{where}: BitsAllocated is not 8, 16 or 32; export it again")
    return frames


def text(header: Dataset, keyword: str) -> str:
    """A tag as text, empty where it is missing; for decisions, never for messages."""
    with contextlib.suppress(Exception):
        value = header.get(keyword)
        return "" if value is None else str(value).strip()
    return ""


def number(header: Dataset, keyword: str, *, where: str) -> float | None:
    """A tag as a finite number, or None where it is missing or empty.

    Raises:
        DataError: it is no finite number.
    """
    values = numbers(header, keyword, count=1, where=where)
    return None if values is None else values[0]


def numbers(header: Dataset, keyword: str, *, count: int, where: str) -> tuple[float, ...] | None:
    """A tag as `count` finite numbers, or None where it is missing or empty.

    Raises:
        DataError: there are more or fewer, or one is not finite.
    """
    try:
        value = header.get(keyword)
        if value is None or (hasattr(value, "__len__") and len(value) == 0):
            return None
        items = tuple(float(item) for item in (value if hasattr(value, "__iter__") else [value]))
    except Exception:  # noqa: BLE001 - whatever a damaged element raises
        items = ()
    if len(items) != count or not all(math.isfinite(item) for item in items):
        raise DataError(f"{where}: {keyword} is not {count} finite number{'s' if count > 1 else ''}; export it again")
    return items


def _count(header: Dataset, keyword: str, where: str, *, default: int | None = None) -> int:
    value = number(header, keyword, where=where)
    if value is None and default is not None:
        return default
    if value is None:
        raise DataError(f"{where}: {keyword} is missing, so this is no image; give CT, MR or X-ray images")
    if value < 1 or value != int(value):
        raise DataError(f"{where}: {keyword} is not a whole number above 0; {_CUT}")
    return int(value)


def _masked(stored: NDArray[Any], header: Dataset) -> NDArray[Any]:
    """Stored values without the bits beside them (overlays), their sign extended."""
    allocated = stored.dtype.itemsize * 8
    bits = int(header.get("BitsStored") or allocated)
    high = int(header.get("HighBit") or bits - 1)
    if stored.dtype.kind not in "iu" or not 0 < bits <= high + 1 <= allocated or bits == allocated:
        return stored
    return (stored << (allocated - 1 - high)) >> (allocated - bits)


def _guessed_syntax(whole: Dataset) -> str:
    implicit, little = whole.original_encoding
    if implicit:
        return str(pydicom.uid.ImplicitVRLittleEndian)
    return str(pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian)


def _check_codestream(whole: Dataset, frames: int, limits: Limits, where: str) -> None:
    """A compressed frame states its own size, which the decoder believes rather than the header."""
    if not whole.file_meta.TransferSyntaxUID.is_compressed or whole.file_meta.TransferSyntaxUID.is_deflated:
        return
    for frame in pydicom.encaps.generate_frames(whole.PixelData, number_of_frames=frames):
        size = codestream_size(frame)
        if size is not None:
            limits.check_pixels(*size, where=where)
            if size != (int(whole.Rows), int(whole.Columns)):
                raise DataError(f"{where}: the compressed image and the header disagree about its size; {_CUT}")


def _check_deflated(path: Path, limits: Limits, where: str) -> None:
    """A deflated file is unpacked by pydicom in one go: measure it first."""
    meta = pydicom.filereader.read_file_meta_info(path) if _has_magic(path) else Dataset()
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    most = min(limits.max_bytes, int(limits.max_zip_ratio * path.stat().st_size))
    with path.open("rb") as stream:
        stream.seek(PREAMBLE_BYTES + len(MAGIC) + 12 + int(meta.FileMetaInformationGroupLength))
        inflater, packed = zlib.decompressobj(-zlib.MAX_WBITS), stream.read()
    if len(inflater.decompress(packed, most + 1)) > most:
        raise TooLargeError(f"{where}: it would unpack to more than the limits allow; send it uncompressed")


def _has_magic(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(PREAMBLE_BYTES + len(MAGIC))[PREAMBLE_BYTES:] == MAGIC

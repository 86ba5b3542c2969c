"""A decoded study as one file that other processes read: what an answer depends on, and nothing of the patient.

A zip of ``study.json`` and one ``.npy`` for each array. Reading never unpickles, and checks the content's digest, so
that a file cut short or exchanged is found.
"""

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vilam3.data.limits import Limits
from vilam3.data.study import Study, Volume, content_digest
from vilam3.errors import ArtifactError

MEMBER = "study.json"
FAST = 1  # zlib's level: half the size for a tenth of the time of the smallest
EXACT = (np.int16, np.uint16)  # tried in place of floats: intensities are whole numbers as a rule
DTYPES = frozenset({"float32", "float64", "uint8", "uint16", "int16", "int32"})
DAMAGED = "damaged, or not a packed study; upload the study again"


def pack(study: Study, path: Path) -> None:
    """Write `study` to `path`."""
    arrays: list[NDArray[Any]] = [volume.voxels_XYZ for volume in study.volumes]
    arrays += [array for array in (study.radiograph_HW, study.picture_HWC) if array is not None]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=FAST) as packed:
        packed.writestr(MEMBER, json.dumps(_description(study, arrays)))
        for number, array in enumerate(arrays):
            with packed.open(f"{number}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, _smallest(np.ascontiguousarray(array)), allow_pickle=False)


def unpack(content: bytes | Path, *, limits: Limits | None = None) -> Study:
    """Read a packed study.

    Args:
        content: The file or its bytes.
        limits: On voxels and pixels, checked before anything is unpacked.

    Raises:
        ArtifactError: it is damaged.
        TooLargeError: beyond the limits.
    """
    source: BinaryIO | Path = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        with zipfile.ZipFile(source) as packed:
            described = json.loads(packed.read(MEMBER))
            arrays = [
                _array(packed, number, told, limits or Limits()) for number, told in enumerate(described["arrays"])
            ]
            study = _study(described, arrays)
    except (OSError, EOFError, zipfile.BadZipFile, ValueError, KeyError, IndexError, TypeError) as error:
        raise ArtifactError(f"study: {DAMAGED}") from error
    pictures = [array for array in (study.radiograph_HW, study.picture_HWC) if array is not None]
    if content_digest(modality=study.modality, volumes=study.volumes, pictures=pictures) != study.digest:
        raise ArtifactError(f"study: its content does not match its digest; {DAMAGED}")
    return study


def _description(study: Study, arrays: list[NDArray[Any]]) -> dict[str, Any]:
    volumes = [
        {"affine": volume.affine_RAS.tolist(), "sequence": volume.sequence, "stored_axes": volume.stored_axes}
        for volume in study.volumes
    ]
    return {
        "digest": study.digest,
        "modality": study.modality,
        "series": study.series,
        "warnings": list(study.warnings),
        "volumes": volumes,
        "radiograph": study.radiograph_HW is not None,
        "picture": study.picture_HWC is not None,
        "arrays": [{"dtype": array.dtype.name, "shape": list(array.shape)} for array in arrays],
    }


def _smallest(array: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in two bytes each where that loses nothing, not even the sign of a zero."""
    if array.dtype.kind != "f" or not array.size:
        return array
    bits = np.dtype(f"u{array.dtype.itemsize}")
    for kind in EXACT:
        info = np.iinfo(kind)
        if info.min <= array.min() and array.max() <= info.max:
            whole = array.astype(kind)
            if np.array_equal(whole.astype(array.dtype).view(bits), array.view(bits)):
                return whole
    return array


def _array(packed: zipfile.ZipFile, number: int, told: dict[str, Any], limits: Limits) -> NDArray[Any]:
    shape, dtype = tuple(int(size) for size in told["shape"]), told["dtype"]
    if dtype not in DTYPES:
        raise ValueError(dtype)
    limits.check_voxels(shape, where="study")
    with packed.open(f"{number}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        found, _, stored = read(member)
        if found != shape or stored.name not in DTYPES:
            raise ValueError(found)
        raw = member.read(math.prod(shape) * stored.itemsize)
    return np.frombuffer(raw, dtype=stored).reshape(shape).astype(dtype)


def _study(described: dict[str, Any], arrays: list[NDArray[Any]]) -> Study:
    volumes = tuple(
        Volume(
            voxels_XYZ=array,
            affine_RAS=np.asarray(told["affine"], dtype=np.float64),
            sequence=told["sequence"],
            stored_axes=told["stored_axes"],
        )
        for told, array in zip(described["volumes"], arrays, strict=False)
    )
    flat = iter(arrays[len(volumes) :])
    return Study(
        digest=described["digest"],
        modality=described["modality"],
        volumes=volumes,
        radiograph_HW=next(flat) if described["radiograph"] else None,
        picture_HWC=next(flat) if described["picture"] else None,
        series=described["series"],
        warnings=tuple(described["warnings"]),
    )

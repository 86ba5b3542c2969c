"""What the small experts are fitted to: images, labels and a split, below ``experts/<name>/`` of a corpus."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vilam3.data.limits import Limits
from vilam3.data.nifti import read_volume
from vilam3.data.study import FloatArray, Volume
from vilam3.errors import DataError

SPLIT = "split.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One image volume with its labels.

    Attributes:
        name: Pseudonym.
        voxels_CXYZ: Channels as stored, float32.
        ids_XYZ: True label ids.
        affine_RAS: Of the grid.
    """

    name: str
    voxels_CXYZ: NDArray[np.float32]
    ids_XYZ: NDArray[np.uint8]
    affine_RAS: FloatArray

    @property
    def spacing_mm(self) -> list[float]:
        """Voxel size along the axes."""
        return [round(float(size), 4) for size in np.linalg.norm(self.affine_RAS[:3, :3], axis=0)]


def read_split(folder: Path) -> Mapping[str, list[str]]:
    """Case names of ``train`` and ``validation``.

    Raises:
        DataError: there is no such file, or it names too few cases.
    """
    path = folder / SPLIT
    try:
        split: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"expert material {path}: no such file; prepare the corpus first: vilam3 prepare") from error
    except ValueError as error:
        raise DataError(f"expert material {path}: not JSON ({error}); prepare the corpus again") from error
    for part in ("train", "validation"):
        if not split.get(part):
            raise DataError(f"expert material {path}: names no {part} cases; prepare a corpus with more patients")
    return split


def read_cases(folder: Path, names: Sequence[str], *, suffixes: Sequence[str]) -> list[Case]:
    """Read volumes; `suffixes` name the channels, ``[""]`` where there is one.

    Raises:
        DataError: a file is missing or damaged.
    """
    return [_read_case(folder, name, suffixes) for name in names]


def read_radiographs(folder: Path, names: Sequence[str]) -> NDArray[np.uint8]:
    """Grey pictures of one size, shape (cases, height, width).

    Raises:
        DataError: a file is missing, damaged or of another size than the first.
    """
    pictures = [_read_picture(folder / "images" / f"{name}.png") for name in names]
    sizes = {picture.shape for picture in pictures}
    if len(sizes) != 1:
        raise DataError(f"expert material {folder}: radiographs of {len(sizes)} sizes; prepare the corpus again")
    return np.stack(pictures)


def read_findings(folder: Path) -> dict[str, dict[str, int]]:
    """Case name to label to 0 or 1.

    Raises:
        DataError: there is no ``labels.json``, or it cannot be read.
    """
    path = folder / "labels.json"
    try:
        findings: dict[str, dict[str, int]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"expert material {path}: not readable ({error}); prepare the corpus again") from error
    return findings


def _read_case(folder: Path, name: str, suffixes: Sequence[str]) -> Case:
    channels = [_read_nifti(folder / "images" / f"{name}{suffix}.nii.gz") for suffix in suffixes]
    labels = _read_nifti(folder / "labels" / f"{name}.nii.gz")
    return Case(
        name=name,
        voxels_CXYZ=np.stack([channel.voxels_XYZ for channel in channels]).astype(np.float32),
        ids_XYZ=labels.voxels_XYZ.astype(np.uint8),
        affine_RAS=channels[0].affine_RAS,
    )


def _read_nifti(path: Path) -> Volume:
    if not path.is_file():
        raise DataError(f"expert material {path}: no such file; prepare the corpus again")
    return read_volume(path, limits=Limits(), where=str(path))[0]


def _read_picture(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L"), dtype=np.uint8)
    except OSError as error:
        raise DataError(f"expert material {path}: not readable ({error}); prepare the corpus again") from error

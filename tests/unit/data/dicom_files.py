"""Writes small DICOM files of any geometry, with a planted patient whose name must never come out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

PATIENT = "Doe^Planted"
SECRETS = ("Doe", "Planted", "PID-4711", "19700131", "Secretdescription")
STORAGE = {"CT": CTImageStorage, "MR": MRImageStorage, "DX": DigitalXRayImageStorageForPresentation}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where a synthetic series lies, in LPS."""

    row: NDArray[Any] = field(default_factory=lambda: np.array([1.0, 0.0, 0.0]))
    column: NDArray[Any] = field(default_factory=lambda: np.array([0.0, 1.0, 0.0]))
    step_mm: NDArray[Any] = field(default_factory=lambda: np.array([0.0, 0.0, 2.5]))
    origin_mm: NDArray[Any] = field(default_factory=lambda: np.array([-10.0, 20.0, 30.0]))
    spacing_mm: tuple[float, float] = (0.8, 0.6)


def oblique_grid(*, angles: tuple[float, float, float] = (0.3, -0.2, 0.5), step: float = 3.0) -> Grid:
    """A grid turned about all three axes, its voxels of three different lengths."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = [index for index in range(3) if index != axis]
        plane = np.eye(3)
        plane[[first, second], [first, second]] = np.cos(angle)
        plane[first, second], plane[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ plane
    return Grid(row=turn[:, 0], column=turn[:, 1], step_mm=turn[:, 2] * step)


def image(pixels_HW: NDArray[Any], *, modality: str = "CT", tags: Mapping[str, Any] | None = None) -> Dataset:
    """A classic single-frame image without geometry; a tag of None is left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = STORAGE.get(modality, CTImageStorage)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = PATIENT, "PID-4711", "19700131"
    dataset.SeriesDescription = "Secretdescription"
    dataset.Modality, dataset.SeriesInstanceUID = modality, "1.2.3.4"
    dataset.Rows, dataset.Columns = pixels_HW.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = pixels_HW.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels_HW.dtype.kind == "i")
    dataset.PixelData = pixels_HW.tobytes()
    for keyword, value in (tags or {}).items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    """Write one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def series(
    folder: Path,
    voxels_KHW: NDArray[np.int16],
    *,
    grid: Grid | None = None,
    modality: str = "CT",
    skip: tuple[int, ...] = (),
    tags: Mapping[str, Any] | None = None,
) -> Path:
    """Write a classic series, file names in another order than the slices; CT with an intercept of -1024."""
    grid = grid or Grid()
    for index, pixels_HW in enumerate(voxels_KHW):
        if index in skip:
            continue
        geometry = {
            "ImagePositionPatient": [round(float(x), 8) for x in grid.origin_mm + index * grid.step_mm],
            "ImageOrientationPatient": [round(float(x), 8) for x in (*grid.row, *grid.column)],
            "PixelSpacing": list(grid.spacing_mm),
            "SliceThickness": 2.5,
        }
        rescale = {"RescaleSlope": 1, "RescaleIntercept": -1024} if modality == "CT" else {}
        dataset = image(pixels_HW, modality=modality, tags={**geometry, **rescale, **(tags or {})})
        save(dataset, folder / f"im{(index * 7) % 101:03d}.dcm")
    return folder


def enhanced(path: Path, voxels_KHW: NDArray[np.int16], *, grid: Grid | None = None) -> Path:
    """Write one enhanced CT with a frame for each slice, frames in reverse order."""
    grid = grid or Grid()
    dataset = image(voxels_KHW[::-1], tags={"SOPClassUID": EnhancedCTImageStorage})
    dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    dataset.NumberOfFrames = len(voxels_KHW)
    shared, measures, orientation, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(grid.spacing_mm), 2.5
    orientation.ImageOrientationPatient = [round(float(x), 8) for x in (*grid.row, *grid.column)]
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1024
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    frames = []
    for index in reversed(range(len(voxels_KHW))):
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = [round(float(x), 8) for x in grid.origin_mm + index * grid.step_mm]
        frame.PlanePositionSequence = Sequence([position])
        frames.append(frame)
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return save(dataset, path)


def real_file(name: str) -> Path:
    """A file that the pydicom wheel itself carries, so that nothing is fetched."""
    path = Path(pydicom.__file__).parent / "data" / "test_files" / name
    assert path.is_file()
    return path

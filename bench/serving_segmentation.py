"""DICOM SEG of every structure of a CT: one run-length encoded label map, against one bit plane for each structure.

117 ellipsoids, as many as VISTA-3D's classes, on 128 slices of 512 x 512; both forms of the same mask by the program's
own encoder in one process. Each form is written once before it is timed, so that neither pays for what is loaded once.
"""

import time

import numpy as np
from numpy.typing import NDArray

from bench.record import Figure
from vilam3.data.dicom_source import DicomSource, Plane
from vilam3.data.geometry import LPS_TO_RAS, reorient
from vilam3.experts.facts import LABELS
from vilam3.experts.protocol import LabelMap
from vilam3.results.segmentation import Author, Form, encode

NUM_CLASSES, NUM_SLICES, SIDE = 117, 128, 512
LEAST_TIMES_FASTER, LEAST_TIMES_SMALLER = 5.0, 50.0
CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
MEGABYTE = 1_000_000


def figures() -> list[Figure]:
    """Times and sizes; each baseline is the older form's."""
    mask, source = phantom()
    label_map_s, label_map = timed(mask, source, "LABELMAP")
    binary_s, binary = timed(mask, source, "BINARY")
    return [
        Figure(name="seg_time", value=label_map_s, unit="s", baseline=binary_s),
        Figure(name="seg_size", value=len(label_map) / MEGABYTE, unit="MB", baseline=len(binary) / MEGABYTE),
        Figure(name="times faster", value=binary_s / label_map_s, unit="x", baseline=LEAST_TIMES_FASTER),
        Figure(name="times smaller", value=len(binary) / len(label_map), unit="x", baseline=LEAST_TIMES_SMALLER),
    ]


def timed(mask: LabelMap, source: DicomSource, form: Form) -> tuple[float, bytes]:
    """Seconds of the processor, one thread, whatever else the machine does; and the file."""
    author = Author(expert="VISTA3D", version="bench", digest="", key="bench")
    encode(mask, source, author=author, form=form)
    began = time.process_time()
    content = encode(mask, source, author=author, form=form)
    return time.process_time() - began, content


def phantom() -> tuple[LabelMap, DicomSource]:
    """A mask with every class in it, and the series it belongs to."""
    planes = tuple(
        Plane(position_mm=(-180.0, -180.0, 2.5 * k), instance_uid=f"1.2.3.{k + 1}", class_uid=CT_STORAGE)
        for k in range(NUM_SLICES)
    )
    source = DicomSource(
        identity={"StudyInstanceUID": "1.2.3", "PatientID": "phantom"},
        series_uid="1.2.3.0",
        frame_of_reference_uid="1.2.3.9",
        modality="CT",
        rows=SIDE,
        columns=SIDE,
        spacing_mm=(0.7, 0.7),
        orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        thickness_mm=2.5,
        is_multiframe=False,
        planes=planes,
    )
    names = dict(list(LABELS.items())[:NUM_CLASSES])
    ids_XYZ, affine = reorient(ellipsoids(list(names)), LPS_TO_RAS @ source.affine_LPS, axes="RAS")
    return LabelMap(ids_XYZ=np.ascontiguousarray(ids_XYZ), affine_RAS=affine, names=names), source


def ellipsoids(label_ids: list[int]) -> NDArray[np.uint8]:
    """One for each label at a random place, later ones over earlier ones; none is lost, each leaves its centre."""
    random = np.random.default_rng(0)
    shape = np.array([SIDE, SIDE, NUM_SLICES])
    ids_IJK = np.zeros(shape, np.uint8)
    centres = random.integers(shape // 8, shape - shape // 8, (len(label_ids), 3))
    for label_id, centre, radii in zip(
        label_ids, centres, random.uniform((8, 8, 4), (45, 45, 22), (117, 3)), strict=True
    ):
        low = np.maximum(0, np.floor(centre - radii)).astype(int)
        high = np.minimum(shape, np.ceil(centre + radii) + 1).astype(int)
        axes = [
            ((np.arange(start, end) - middle) / radius) ** 2
            for start, end, middle, radius in zip(low, high, centre, radii, strict=True)
        ]
        inside = axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :] <= 1
        ids_IJK[low[0] : high[0], low[1] : high[1], low[2] : high[2]][inside] = label_id
    ids_IJK[tuple(centres.T)] = label_ids
    return ids_IJK

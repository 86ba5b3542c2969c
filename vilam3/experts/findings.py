"""Results made of what was found: text, overlay, legend and measurements for a given segmentation or given scores.

The experts call these with what their networks found, a corpus with what it knows to be true; so both say the same.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from vilam3.data.sample import Dialect
from vilam3.data.study import Study
from vilam3.experts.facts import BRATS_LABELS, LABELS
from vilam3.experts.overlay import Drawing, draw, legend
from vilam3.experts.protocol import ExpertResult, FloatArray, LabelMap, Measurement, Provenance
from vilam3.experts.wording import brats_text, cxr_text, vista3d_text

MM3_PER_ML = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who found something, in what, and since when it has been looking.

    Attributes:
        expert: As in triggers.
        version: Of the weights.
        weights_digest: SHA-256, in hexadecimal.
        argument: As called.
        started: Moment of `time.perf_counter()`.
    """

    expert: str
    version: str
    weights_digest: str
    argument: str = ""
    started: float = field(default_factory=time.perf_counter)

    def provenance(self, study: Study, *, slice_index: int | None) -> Provenance:
        """The record that goes with a result; the clock stops here."""
        return Provenance(
            expert=self.expert,
            version=self.version,
            weights_digest=self.weights_digest,
            argument=self.argument,
            study_digest=study.digest,
            series=study.series,
            slice_index=slice_index,
            seconds=round(time.perf_counter() - self.started, 3),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def middle(study: Study, slice_index: int | None) -> int:
    """The slice asked for, or the middle one as `vilam3.data.render.views` takes it."""
    return study.num_slices // 2 if slice_index is None else slice_index


def vista3d_result(
    study: Study, ids_XYZ: NDArray[np.uint8], *, origin: Origin, slice_index: int | None = None
) -> ExpertResult:
    """The result of a CT segmentation.

    Args:
        study: CT, one volume.
        ids_XYZ: VISTA3D label ids on its grid.
        origin: For provenance.
        slice_index: Axial slice; None is the middle one.

    Raises:
        DataError: the slice is out of range.
    """
    chosen = middle(study, slice_index)
    drawing = draw(study.volumes[0], ids_XYZ, modality="CT", slice_index=chosen)
    text = vista3d_text(drawing.colors)
    return _segmentation(study, ids_XYZ, LABELS, text=text, drawing=drawing, origin=origin, slice_index=chosen)


def brats_result(
    study: Study,
    ids_XYZ: NDArray[np.uint8],
    *,
    origin: Origin,
    dialect: Dialect,
    slice_index: int | None = None,
) -> ExpertResult:
    """The result of a brain tumour segmentation, drawn on the first sequence.

    Args:
        study: MRI, the first sequence being t1c.
        ids_XYZ: 1 core, 2 edema, 4 enhancing, on its grid.
        origin: For provenance.
        dialect: Wording.
        slice_index: Axial slice; None is the middle one.

    Raises:
        DataError: the slice is out of range.
    """
    chosen = middle(study, slice_index)
    drawing = draw(study.volumes[0], ids_XYZ, modality="MRI", slice_index=chosen)
    text = brats_text(drawing.colors, dialect=dialect)
    return _segmentation(study, ids_XYZ, BRATS_LABELS, text=text, drawing=drawing, origin=origin, slice_index=chosen)


def cxr_result(
    study: Study, scores: Mapping[str, float], *, origin: Origin, dialect: Dialect, untrained: tuple[str, ...] = ()
) -> ExpertResult:
    """The result of a chest x-ray classification: text and scores, no picture.

    Args:
        study: The radiograph.
        scores: Probability by label; all of them go into the text, in the published form.
        origin: For provenance.
        dialect: Wording.
        untrained: Labels the weights know nothing about; they are kept out of `scores` and measurements.
    """
    known = {label: score for label, score in scores.items() if label not in untrained}
    return ExpertResult(
        text=cxr_text(scores, dialect=dialect),
        provenance=origin.provenance(study, slice_index=None),
        scores=known,
        measurements=tuple(
            Measurement(label=label, quantity="probability", value=round(score, 4), unit="")
            for label, score in known.items()
        ),
    )


def volumes_ml(ids_XYZ: NDArray[np.uint8], affine_RAS: FloatArray) -> dict[int, float]:
    """Volume of each label present, in millilitres, from the voxel size in the affine."""
    voxel_ml = abs(float(np.linalg.det(affine_RAS[:3, :3]))) / MM3_PER_ML
    # Plane by plane: counting widens what it counts to eight bytes a voxel.
    counts = sum((np.bincount(plane.ravel(), minlength=256) for plane in ids_XYZ), np.zeros(256, dtype=np.int64))
    return {int(label_id): float(counts[label_id]) * voxel_ml for label_id in np.flatnonzero(counts) if label_id}


def _segmentation(
    study: Study,
    ids_XYZ: NDArray[np.uint8],
    names: Mapping[int, str],
    *,
    text: str,
    drawing: Drawing,
    origin: Origin,
    slice_index: int,
) -> ExpertResult:
    affine_RAS = study.volumes[0].affine_RAS
    volumes = volumes_ml(ids_XYZ, affine_RAS)
    present = {label_id: names.get(label_id, f"label {label_id}") for label_id in volumes}
    return ExpertResult(
        text=text,
        provenance=origin.provenance(study, slice_index=slice_index),
        overlay=drawing.picture,
        mask=LabelMap(ids_XYZ=ids_XYZ, affine_RAS=affine_RAS, names=present),
        colors=legend(drawing.colors, names),
        measurements=tuple(
            Measurement(label=present[label_id], quantity="volume", value=round(volume, 3), unit="ml")
            for label_id, volume in volumes.items()
        ),
    )

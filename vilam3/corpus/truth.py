"""What a perfect expert would say about a phantom patient, in the words of the real ones."""

import numpy as np
from numpy.typing import NDArray

from vilam3.corpus.patients import Item, Patient
from vilam3.data.phantom.ct import HOSTS
from vilam3.data.sample import Dialect
from vilam3.experts.facts import GROUPS, published_ensemble
from vilam3.experts.overlay import draw
from vilam3.experts.protocol import ExpertResult, Provenance
from vilam3.experts.wording import brats_text, cxr_text, vista3d_text

SURE, ABSENT = 0.95, 0.05


def true_result(patient: Patient, item: Item, *, dialect: Dialect) -> ExpertResult:
    """The result of the item's expert call, from the ground truth."""
    origin = _provenance(patient, item)
    if item.call.expert == "CXR":
        labels = published_ensemble()["training_order"]
        scores = {label: SURE if patient.findings.get(label) else ABSENT for label in labels}
        return ExpertResult(text=cxr_text(scores, dialect=dialect), provenance=origin, scores=scores)
    assert patient.ids_XYZ is not None
    assert item.slice_index is not None
    asked = item.call.argument
    ids_XYZ = group_mask(patient.ids_XYZ, asked) if item.call.expert == "VISTA3D" else patient.ids_XYZ
    drawing = draw(patient.study.volumes[0], ids_XYZ, modality=patient.study.modality, slice_index=item.slice_index)
    told = vista3d_text(drawing.colors) if asked else brats_text(drawing.colors, dialect=dialect)
    return ExpertResult(text=told, provenance=origin, overlay=drawing.picture)


def group_mask(ids_XYZ: NDArray[np.uint8], group: str) -> NDArray[np.uint8]:
    """The labels a VISTA3D argument asks for; ``everything`` knows no tumours and gives them to their organ."""
    if group != "everything":
        return np.where(np.isin(ids_XYZ, list(GROUPS[group])), ids_XYZ, 0).astype(np.uint8)
    healed = ids_XYZ.copy()
    for organ, tumor in HOSTS.values():
        healed[ids_XYZ == tumor] = organ
    return healed


def _provenance(patient: Patient, item: Item) -> Provenance:
    return Provenance(
        expert=item.call.expert,
        version="ground truth",
        weights_digest="",
        argument=item.call.argument,
        study_digest=patient.study.digest,
        series=patient.study.series,
        slice_index=item.slice_index,
        seconds=0.0,
        created_at="",
    )

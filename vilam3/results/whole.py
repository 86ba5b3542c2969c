"""Questions about a whole volume: what an expert found is shown on the slice that holds most of what it looked for.

The published protocol shows the slice that was chosen beforehand. Where none was, a finding elsewhere in the volume
would stay unseen; here the overlay, its legend and the words about it are made again for the fullest slice.
"""

from collections.abc import Callable
from dataclasses import replace

from vilam3.data.nifti import read_label_map
from vilam3.data.sample import Dialect, Modality
from vilam3.data.study import Study
from vilam3.dialogue.panel import Ask
from vilam3.experts.facts import BRATS_LABELS, LABELS
from vilam3.experts.overlay import draw, legend
from vilam3.experts.protocol import ExpertCall, ExpertResult, LabelMap, Watch
from vilam3.experts.wording import brats_text, vista3d_text
from vilam3.results.measure import fullest_slice

Load = Callable[[str], bytes]
NAMES = {"VISTA3D": LABELS, "BRATS": BRATS_LABELS}  # whose words are known; another expert's are left as they are


def on_whole(ask: Ask, study: Study, *, dialect: Dialect, load: Load | None = None) -> Ask:
    """The same experts, their findings shown on the fullest slice.

    Args:
        ask: Runs an expert.
        study: What it looks at.
        dialect: Wording of the language model.
        load: Reads a segmentation that an expert elsewhere has left in the store, where experts may be elsewhere.
    """

    def asked(call: ExpertCall, watch: Watch) -> ExpertResult:
        return on_fullest_slice(ask(call, watch), study, dialect=dialect, load=load)

    return asked


def on_fullest_slice(result: ExpertResult, study: Study, *, dialect: Dialect, load: Load | None = None) -> ExpertResult:
    """The finding, shown on the slice with the most of it; unchanged where there is no segmentation."""
    expert, argument = result.provenance.expert, result.provenance.argument
    mask = _mask(result, load) if study.volumes and expert in NAMES else None
    chosen = None if mask is None else fullest_slice(mask, asked=argument)
    if mask is None or chosen is None:
        return result
    is_ct = expert == "VISTA3D"
    modality: Modality = "CT" if is_ct else "MRI"
    drawing = draw(study.volumes[0], mask.ids_XYZ, modality=modality, slice_index=chosen)
    return replace(
        result,
        text=vista3d_text(drawing.colors) if is_ct else brats_text(drawing.colors, dialect=dialect),
        overlay=drawing.picture,
        colors=legend(drawing.colors, NAMES[expert]),
        provenance=replace(result.provenance, slice_index=chosen),
    )


def _mask(result: ExpertResult, load: Load | None) -> LabelMap | None:
    if result.mask is not None or not result.mask_reference or load is None:
        return result.mask
    ids_XYZ, affine, names = read_label_map(load(result.mask_reference))
    return LabelMap(ids_XYZ=ids_XYZ, affine_RAS=affine, names=names)

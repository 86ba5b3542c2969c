"""What an expert's result is called when it is told to the language model; the instruction that follows is not here.

Each text goes before `vilam3.dialogue.prompts.follow_up`, and the two together are the published message. Facts from
Project-MONAI VLM-Radiology-Agent-Framework fc8c5a7: ``m3/data_prepare/experts/expert_utils.py`` and
``expert_train_data_vista3d.py`` (training), ``m3/demo/experts/expert_*.py`` (demo).
"""

from collections.abc import Mapping

from vilam3.data.sample import Dialect
from vilam3.experts.facts import NAMED, published_ensemble

RESULT = "The results are <image>. The colors in this image describe"
PREDICTIONS = "The resulting predictions are:\n"
CORE, EDEMA, ENHANCING = 1, 2, 4
CUT = 0.5


def vista3d_text(colors: Mapping[int, str]) -> str:
    """What the colours of a CT overlay mean; labels that have no published name are left out.

    Args:
        colors: Label id to colour name, in the order drawn.
    """
    described = [f"{color}: {NAMED[label_id]}" for label_id, color in colors.items() if label_id in NAMED]
    return f"{RESULT} {', '.join(described)}. "


def brats_text(colors: Mapping[int, str], *, dialect: Dialect) -> str:
    """What the colours of a brain tumour overlay mean.

    Training data only has slices with all three labels and names the enhancing part first; the demo names the core
    first and leaves out what the slice does not show. Without any label the demo's text ends after its first line.

    Args:
        colors: Label id (1, 2, 4) to colour name.
        dialect: Which of the two wordings.
    """
    core, enhancing = colors.get(CORE), colors.get(ENHANCING)
    text = f"{RESULT}\n"
    if core and enhancing:
        pair = (enhancing, core) if dialect == "training" else (core, enhancing)
        text += f"{pair[0]} and {pair[1]}: tumor core, "
    if enhancing:
        text += f"only {enhancing}: enhancing tumor, "
    if core or enhancing or EDEMA in colors:
        text += "all colors: whole tumor\n"
    return text


def cxr_text(scores: Mapping[str, float], *, dialect: Dialect) -> str:
    """Which findings a radiograph shows.

    Training data lists the labels in the order of the published ensemble and says yes above 0.5, the demo in
    alphabetical order and from 0.5 on, with a line that holds a full stop at the end. In training data that full stop
    belongs to the instruction.

    Args:
        scores: Probability by label, in torchxrayvision's spelling.
        dialect: Which of the two wordings.
    """
    if dialect == "demo":
        lines = [_line(label, yes=scores[label] >= CUT) for label in sorted(scores)]
        return PREDICTIONS + "\n".join([*lines, "."])
    order = {label: rank for rank, label in enumerate(published_ensemble()["training_order"])}
    ordered = sorted(scores, key=lambda label: order.get(label, len(order)))
    return PREDICTIONS + "".join(_line(label, yes=scores[label] > CUT) + "\n" for label in ordered)


def _line(label: str, *, yes: bool) -> str:
    return f"{label.lower().replace('_', ' ')}: {'yes' if yes else 'no'}"

"""The exact wording between user, model and experts, in the two published dialects.

``training`` is what the stage-4 data says, ``demo`` what the official demo sends at inference; they differ in blanks,
a full stop and a few words, and a model is best asked in the dialect it was trained in. Facts from
Project-MONAI VLM-Radiology-Agent-Framework fc8c5a7: m3/data_prepare/experts/expert_utils.py,
expert_train_data_vista3d.py, m3/demo/gradio_m3.py.
"""

from vilam3.data.sample import IMAGE_TOKEN, Dialect, Modality

MRI_SEQUENCES = f"T1(contrast enhanced): {IMAGE_TOKEN}, T1: {IMAGE_TOKEN}, T2: {IMAGE_TOKEN}, FLAIR: {IMAGE_TOKEN} "
MRI_SENTENCE = "These are different MRI modalities.\n"
CXR_TRAINING_INSTRUCTION = (
    ". Analyze the image and take these predictions into account when responding to this prompt:\n"
)
INSTRUCTION = "Use this result to respond to this prompt:\n"


def opening(question: str, *, modality: Modality, num_images: int, cards: str, dialect: Dialect) -> str:
    """Prefix the user's first question with model cards, image places and the modality sentence.

    Args:
        question: As typed; its own ``<image>`` is respected for one image and removed for several.
        modality: Of the study.
        num_images: 0, 1 or 4.
        cards: The model cards, or empty to ask without experts.
        dialect: See the module.
    """
    if num_images == 0:
        return question
    if num_images > 1:
        bare = question.replace(IMAGE_TOKEN, "")
        places = MRI_SEQUENCES if num_images == 4 else f"{IMAGE_TOKEN} " * num_images  # noqa: PLR2004 - the four MR sequences
        return cards + places + MRI_SENTENCE + bare
    sentence = "" if modality == "Unknown" else f"This is a {modality} image.\n"
    if IMAGE_TOKEN in question:
        return cards + sentence + question
    return cards + _place(modality, dialect) + sentence + question


def _place(modality: Modality, dialect: Dialect) -> str:
    if dialect == "demo":
        return IMAGE_TOKEN
    return {"CT": f" {IMAGE_TOKEN}", "CXR": f"{IMAGE_TOKEN} "}.get(modality, IMAGE_TOKEN)


def follow_up(question: str, *, modality: Modality, dialect: Dialect) -> str:
    """The instruction that follows an expert's text and repeats the question."""
    bare = question.replace(f"\n{IMAGE_TOKEN}", "").replace(IMAGE_TOKEN, "")
    if dialect == "demo":
        return INSTRUCTION + bare
    if modality == "CXR":
        return CXR_TRAINING_INSTRUCTION + bare
    return INSTRUCTION + bare + "."


def failure(expert: str, reason: str) -> str:
    """What the model is told when an expert cannot answer; the reader is told the same."""
    return f"The expert model {expert} could not be used: {reason} "

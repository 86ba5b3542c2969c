"""How questions are asked and captions told; our own words, with the published answers and triggers.

Triggers and answers whose spelling published weights depend on follow Project-MONAI
VLM-Radiology-Agent-Framework fc8c5a7: m3/data_prepare/experts/expert_train_data_{vista3d,brats,cxr}.py.
"""

from collections.abc import Mapping

TUMOR_QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "hepatic tumor": (
        "Is there a hepatic tumor?",
        "Is there a hepatic tumor in the image?",
        "Do you see a tumor in the liver?",
        "Does this slice show a hepatic tumor?",
        "Can you find a lesion in the liver?",
        "Is any hepatic lesion visible here?",
    ),
    "pancreatic tumor": (
        "Is there a pancreatic tumor?",
        "Is there a pancreatic tumor in the image?",
        "Do you see a tumor in the pancreas?",
        "Does this slice show a pancreatic tumor?",
        "Can you find a lesion in the pancreas?",
        "Is any pancreatic lesion visible here?",
    ),
}
SEGMENT_QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "organs": (
        "Segment the organs in the image",
        "Please outline the organs.",
        "Can you segment all organs here?",
    ),
    "everything": (
        "Segment everything in the image",
        "Please segment all structures.",
        "Can you delineate everything you see?",
    ),
}
GRADE_QUESTIONS = (
    "What glioma grade is shown in the image?",
    "Is this a lower or a high grade glioma?",
    "Which grade does the glioma have?",
)
FINDING_QUESTIONS = (
    "Is there {finding}?",
    "Does the radiograph show {finding}?",
    "Do you see {finding} in this image?",
    "Is {finding} present?",
)
GLOSSARY: tuple[tuple[str, str], ...] = (
    ("Which organ does the word hepatic refer to?", "the liver"),
    ("Which organ does the word renal refer to?", "the kidney"),
    ("Which organ does the word splenic refer to?", "the spleen"),
    ("Which organ does the word cardiac refer to?", "the heart"),
    ("Which organ does the word cerebral refer to?", "the brain"),
    ("Which organ does the word pulmonary refer to?", "the lung"),
    ("What does CT stand for?", "computed tomography"),
    ("What does MRI stand for?", "magnetic resonance imaging"),
    ("What is an enlarged heart called?", "cardiomegaly"),
    ("What is air between lung and chest wall called?", "pneumothorax"),
    ("What is fluid around the lung called?", "effusion"),
    ("What is a tumor of glial cells called?", "glioma"),
)

VISTA3D_TRIGGER = "This looks like a CT image. Let me trigger <VISTA3D({group})>. "
BRATS_TRIGGER = "This looks like an MRI image sequence. Let me first trigger <BRATS()>."
CXR_TRIGGER = "This looks like an chest x-ray. Let me first trigger <CXR()>."
SEGMENTED = "I segmented the {group} using <VISTA3D({group})>."
GRADE_ANSWER = "The scan indicates {grade} grade glioma."


def ct_caption(seen: Mapping[str, bool]) -> str:
    """One sentence about an abdominal slice that says of every tumour whether it is there."""
    return f"An abdominal CT slice: {_spelled(seen)}."


def mri_caption(grade: str) -> str:
    """One sentence about a brain slice."""
    return f"A brain MRI slice: {'no glioma' if grade == 'none' else grade + ' grade glioma'}."


def cxr_report(findings: Mapping[str, bool]) -> str:
    """One sentence about a radiograph that says of every finding whether it is there."""
    return f"A chest radiograph: {_spelled(findings)}."


def _spelled(seen: Mapping[str, bool]) -> str:
    return ", ".join(f"{name.lower()} {'yes' if there else 'no'}" for name, there in seen.items())

"""The one training sample type and the one evaluation question type.

A `Sample` is a conversation with its images in the LLaVA sense: the literal ``<image>`` in the text marks where
each image goes, in order. A `Question` is what evaluation asks: it names a study, not rendered images, so that
the very path that serves a user renders it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

IMAGE_TOKEN = "<image>"  # noqa: S105 - a placeholder in text, not a secret
Modality = Literal["CT", "MRI", "CXR", "US", "Unknown"]
Dialect = Literal["training", "demo"]  # which published wording of the expert protocol; see vilam3.dialogue.prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a training conversation; `speaker` keeps LLaVA's words."""

    speaker: Literal["human", "gpt"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One conversation.

    Attributes:
        sample_id: Unique within its corpus; never a patient identifier.
        images: Paths relative to the corpus root, one for each ``<image>`` in the turns.
        turns: Alternating human and gpt, human first.
        task: Which task it trains, such as ``ct_tumor``; empty where the source does not say.
        patient: Pseudonym used for splitting; empty where the source does not say.
    """

    sample_id: str
    images: tuple[str, ...] = ()
    turns: tuple[Turn, ...]
    task: str = ""
    patient: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One held-out question with its exact answer.

    Attributes:
        question_id: Unique within its corpus.
        task: Task name, the unit of the accuracy tables.
        patient: Pseudonym; every question of a patient is in one split, and resampling is by patient.
        study: Study directory or file, relative to the corpus root.
        modality: Modality of the study.
        slice_index: Axial slice in RAS orientation, or None for the middle one and for 2-D studies.
        text: The question.
        answer: The right answer, lower case.
        expert: Name of the expert that ought to be called, or empty where none is needed.
        argument: Its argument, or empty.
        facts: What the ground truth knows, such as contrast in HU; for subgroup tables.
    """

    question_id: str
    task: str
    patient: str
    study: str
    modality: Modality
    slice_index: int | None = None
    text: str
    answer: str
    expert: str = ""
    argument: str = ""
    facts: Mapping[str, float | str] = field(default_factory=dict)

"""What one patient adds to a corpus; runs in a worker process and returns no pixels."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vilam3.corpus.conversations import Conversation, caption, consulting, direct, plain
from vilam3.corpus.material import write_material, write_study
from vilam3.corpus.patients import Item, Patient, make_patient
from vilam3.corpus.truth import true_result
from vilam3.data.phantom.settings import PhantomSettings
from vilam3.data.render import views
from vilam3.data.sample import Dialect, Question, Sample
from vilam3.data.split import Split, split_of
from vilam3.experts.facts import ARGUMENTS, cards
from vilam3.experts.trigger import Grammar

EXPERT_DATASETS = {"VISTA3D": "expert_vista3d", "BRATS": "expert_brats", "CXR": "expert_cxr"}
SEGMENT_TASK = "ct_segment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What a patient adds.

    Attributes:
        name: Pseudonym.
        kind: ``ct``, ``mri`` or ``cxr``.
        split: Where the patient belongs.
        samples: Dataset name and sample; training patients only.
        questions: Held-out patients only.
        is_material: Whether the small experts may use it.
        findings: True labels of a radiograph.
    """

    name: str
    kind: str
    split: Split
    samples: tuple[tuple[str, Sample], ...]
    questions: tuple[Question, ...]
    is_material: bool
    findings: Mapping[str, bool]


def contribute(
    root: Path, numbered: tuple[str, int], *, seed: int, settings: PhantomSettings, dialect: Dialect
) -> Contribution:
    """Draw one patient and write its files below `root`.

    Args:
        root: The corpus under construction.
        numbered: Kind and number of the patient.
        seed: Of the corpus.
        settings: Of the corpus.
        dialect: Wording of the expert conversations.
    """
    kind, number = numbered
    patient = make_patient(kind, number, seed=seed, settings=settings)
    held = settings.validation_fraction + settings.test_fraction
    split = split_of(
        patient.name, seed=seed, fractions=(1 - held, settings.validation_fraction, settings.test_fraction)
    )
    samples: tuple[tuple[str, Sample], ...] = ()
    if split == "train":
        samples = tuple(_samples(root / "images", patient, dialect))
    else:
        write_study(root / "studies" / patient.name, patient)
    is_material = split == "validation" or (split == "train" and (kind == "cxr" or number < settings.expert_volumes))
    if is_material:
        write_material(root / "experts", patient)
    return Contribution(
        name=patient.name,
        kind=kind,
        split=split,
        samples=samples,
        questions=() if split == "train" else tuple(_questions(patient)),
        is_material=is_material,
        findings=patient.findings,
    )


def _samples(folder: Path, patient: Patient, dialect: Dialect) -> Iterator[tuple[str, Sample]]:
    for number, (dataset, task, conversation) in enumerate(_conversations(patient, dialect)):
        sample = Sample(
            sample_id=f"{patient.name}-s{number}",
            images=tuple(_store(folder, picture) for picture in conversation.images),
            turns=conversation.turns,
            task=task,
            patient=patient.name,
        )
        yield dataset, sample


def _conversations(patient: Patient, dialect: Dialect) -> Iterator[tuple[str, str, Conversation]]:
    grammar = Grammar(ARGUMENTS)
    for slice_index, text in patient.captions:
        yield "captions", "caption", caption(text, views(patient.study, slice_index=slice_index))
    for item in patient.items:
        truth = true_result(patient, item, dialect=dialect)
        dataset = EXPERT_DATASETS[item.call.expert]
        yield dataset, item.task, consulting(patient, item, truth, grammar=grammar, cards=cards(), dialect=dialect)
        if item.task == SEGMENT_TASK:
            continue  # nobody can draw a segmentation from looking, so there is no direct answer to learn
        yield f"vqa_{patient.kind}", item.task, direct(patient, item, grammar=grammar, dialect=dialect)
        pictures = views(patient.study, slice_index=item.slice_index)
        yield "vqa_plain", item.task, plain(item.question, item.answer, pictures)


def _store(folder: Path, picture: Image.Image) -> str:
    """Write a picture under the digest of its pixels, once, and return its path in the corpus."""
    name = hashlib.sha256(f"{picture.size}{picture.mode}".encode() + picture.tobytes()).hexdigest()[:20] + ".png"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        picture.save(folder / name, format="PNG", compress_level=1)
    return f"{folder.name}/{name}"


def _questions(patient: Patient) -> Iterator[Question]:
    for index, item in enumerate(patient.items):
        yield _question(patient, index, item)


def _question(patient: Patient, index: int, item: Item) -> Question:
    return Question(
        question_id=f"{patient.name}-q{index}",
        task=item.task,
        patient=patient.name,
        study=f"studies/{patient.name}",
        modality=patient.study.modality,
        slice_index=item.slice_index,
        text=item.question,
        answer=item.answer.lower(),
        expert=item.call.expert,
        argument=item.call.argument,
        facts=item.facts,
    )

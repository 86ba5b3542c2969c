"""One phantom patient: its study, what can be asked about it, and the true findings behind each question."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilam3.corpus import wording
from vilam3.data.phantom.ct import HOSTS, make_ct
from vilam3.data.phantom.cxr import FINDINGS, CxrPhantom, make_cxr
from vilam3.data.phantom.mri import CORE, EDEMA, ENHANCING, make_mri
from vilam3.data.phantom.settings import PhantomSettings
from vilam3.data.sample import Modality
from vilam3.data.study import Study, Volume
from vilam3.experts.protocol import ExpertCall

KINDS: Mapping[str, int] = {"ct": 1, "mri": 2, "cxr": 3}  # also part of each patient's random seed
NEAR_LARGEST = 0.7  # a slice shows a tumour when it holds at least this share of the largest cross-section


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to ask about a patient.

    Attributes:
        task: Unit of the accuracy table.
        question: As a user would type it.
        answer: The right answer in the published spelling.
        call: The expert to consult.
        trigger: What the model says to call it; for segmentation this is the answer as well.
        slice_index: Axial slice asked about, or None in 2-D.
        facts: Ground truth numbers for subgroup tables.
        further: Questions and answers that follow in the same training conversation.
    """

    task: str
    question: str
    answer: str
    call: ExpertCall
    trigger: str
    slice_index: int | None = None
    facts: Mapping[str, float | str] = field(default_factory=dict)
    further: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patient:
    """One phantom patient.

    Attributes:
        name: Pseudonym such as ``ct-00012``.
        study: As a reader would deliver it; the digest is the pseudonym, since the files are not written yet.
        ids_XYZ: True segmentation of a volume study, else None.
        findings: True labels of a radiograph, else empty.
        items: What is asked.
        captions: One sentence a slice, with the slice it is about.
    """

    name: str
    study: Study
    items: tuple[Item, ...]
    captions: tuple[tuple[int | None, str], ...]
    ids_XYZ: NDArray[np.uint8] | None = None
    findings: Mapping[str, bool] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """``ct``, ``mri`` or ``cxr``."""
        return self.name.split("-", 1)[0]


def make_patient(kind: str, number: int, *, seed: int, settings: PhantomSettings) -> Patient:
    """Draw patient `number` of a kind; the same arguments give the same patient."""
    rng = np.random.default_rng([seed, KINDS[kind], number])
    name = f"{kind}-{number:05d}"
    return {"ct": _ct_patient, "mri": _mri_patient, "cxr": _cxr_patient}[kind](name, rng, settings)


def _ct_patient(name: str, rng: np.random.Generator, settings: PhantomSettings) -> Patient:
    phantom = make_ct(rng, settings)
    items, captions = [], []
    for tumor, (organ, label) in HOSTS.items():
        for _ in range(settings.questions_per_patient):
            present = tumor in phantom.contrast_hu
            z = _slice_with(rng, phantom.ids_XYZ, (label,) if present else (organ,))
            items.append(
                Item(
                    task="ct_" + tumor.replace(" ", "_"),
                    question=_pick(rng, wording.TUMOR_QUESTIONS[tumor]),
                    answer="yes" if present else "no",
                    call=ExpertCall(expert="VISTA3D", argument=tumor),
                    trigger=wording.VISTA3D_TRIGGER.format(group=tumor),
                    slice_index=z,
                    facts={"contrast_hu": phantom.contrast_hu.get(tumor, 0.0), "noise_hu": phantom.noise_hu},
                )
            )
            seen = {name: bool((phantom.ids_XYZ[:, :, z] == k).any()) for name, (_, k) in HOSTS.items()}
            captions.append((z, wording.ct_caption(seen)))
    group = _pick(rng, tuple(wording.SEGMENT_QUESTIONS))
    items.append(
        Item(
            task="ct_segment",
            question=_pick(rng, wording.SEGMENT_QUESTIONS[group]),
            answer=wording.SEGMENTED.format(group=group),
            call=ExpertCall(expert="VISTA3D", argument=group),
            trigger=wording.SEGMENTED.format(group=group),
            slice_index=int(rng.integers(8, 24)),
        )
    )
    study = _study(name, "CT", volumes=(phantom.volume,))
    return Patient(name=name, study=study, items=tuple(items), captions=tuple(captions), ids_XYZ=phantom.ids_XYZ)


def _mri_patient(name: str, rng: np.random.Generator, settings: PhantomSettings) -> Patient:
    phantom = make_mri(rng, settings)
    grades = {"lower": "lower", "high": "high"}
    items = []
    middle = phantom.ids_XYZ.shape[2] // 2
    for _ in range(settings.questions_per_patient if phantom.grade in grades else 0):
        items.append(  # noqa: PERF401 - a comprehension of this length hides the draw order
            Item(
                task="mri_grade",
                question=_pick(rng, wording.GRADE_QUESTIONS),
                answer=wording.GRADE_ANSWER.format(grade=phantom.grade),
                call=ExpertCall(expert="BRATS"),
                trigger=wording.BRATS_TRIGGER,
                slice_index=_slice_with(rng, phantom.ids_XYZ, (CORE, ENHANCING)),
                facts={"enhancement": phantom.enhancement, "noise": phantom.noise},
            )
        )
    z = middle if phantom.grade == "none" else _slice_with(rng, phantom.ids_XYZ, (CORE, EDEMA, ENHANCING))
    captions = ((z, wording.mri_caption(phantom.grade)),)
    study = _study(name, "MRI", volumes=phantom.volumes)
    return Patient(name=name, study=study, items=tuple(items), captions=captions, ids_XYZ=phantom.ids_XYZ)


def _cxr_patient(name: str, rng: np.random.Generator, settings: PhantomSettings) -> Patient:
    phantom = make_cxr(rng, settings)
    items = tuple(
        _finding_item(rng, first, phantom) for first in rng.permutation(len(FINDINGS))[: settings.questions_per_patient]
    )
    report = wording.cxr_report(phantom.findings)
    study = _study(name, "CXR", radiograph_HW=phantom.grey_HW)
    return Patient(name=name, study=study, items=items, captions=((None, report),), findings=phantom.findings)


def _finding_item(rng: np.random.Generator, first: int, phantom: CxrPhantom) -> Item:
    """Ask about one finding, then in training about all the others, as the published image-level conversations do."""
    others = [FINDINGS[k] for k in rng.permutation(len(FINDINGS)) if k != first]
    (question, answer), *further = [_asked(rng, name, phantom.findings) for name in (FINDINGS[first], *others)]
    return Item(
        task="cxr_finding",
        question=question,
        answer=answer,
        call=ExpertCall(expert="CXR"),
        trigger=wording.CXR_TRIGGER,
        facts={"finding": FINDINGS[first], "contrast": phantom.contrast, "noise": phantom.noise},
        further=tuple(further),
    )


def _asked(rng: np.random.Generator, name: str, findings: Mapping[str, bool]) -> tuple[str, str]:
    question = _pick(rng, wording.FINDING_QUESTIONS).format(finding=name.lower())
    return question, "yes" if findings[name] else "no"


def _slice_with(rng: np.random.Generator, ids_XYZ: NDArray[np.uint8], labels: tuple[int, ...]) -> int:
    """A slice in which these labels are nearly as large as they get."""
    areas = np.isin(ids_XYZ, labels).sum(axis=(0, 1))
    return int(rng.choice(np.flatnonzero(areas >= NEAR_LARGEST * areas.max())))


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _study(
    name: str,
    modality: Modality,
    *,
    volumes: tuple[Volume, ...] = (),
    radiograph_HW: Any = None,  # noqa: ANN401 - grey levels of either width
) -> Study:
    return Study(digest=name, modality=modality, volumes=volumes, radiograph_HW=radiograph_HW)

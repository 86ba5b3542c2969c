"""Text-only exercises: find the line that answers the question.

Published weights start from a language model that can read; the tiny one starts from nothing, so it is taught to look
a line up before it meets a radiograph expert. The lines are random and belong to no patient.
"""

import numpy as np

from vilam3.corpus import wording
from vilam3.data.phantom.cxr import FINDINGS
from vilam3.data.sample import Dialect, Sample, Turn
from vilam3.dialogue.prompts import follow_up
from vilam3.experts.facts import published_ensemble
from vilam3.experts.wording import cxr_text

SEED_SPACE = 9  # keeps these draws apart from the patients'
SHOWN_SHARE = 0.5


def glossary() -> list[Sample]:
    """Terms and their meaning, asked without an image."""
    return [
        _sample(f"glossary-{index}", ((question, answer),), "glossary")
        for index, (question, answer) in enumerate(wording.GLOSSARY)
    ]


def exercises(count: int, *, seed: int, dialect: Dialect) -> list[Sample]:
    """Lists of predictions, each followed by questions about the lines, one after the other."""
    rng = np.random.default_rng([seed, SEED_SPACE])
    return [_exercise(index, rng, dialect) for index in range(count)]


def _exercise(index: int, rng: np.random.Generator, dialect: Dialect) -> Sample:
    labels = published_ensemble()["training_order"]
    shown = {label: bool(rng.random() < SHOWN_SHARE) and label in FINDINGS for label in labels}
    told = cxr_text({label: float(there) for label, there in shown.items()}, dialect=dialect)
    exchanges = []
    for finding in (FINDINGS[k] for k in rng.permutation(len(FINDINGS))):
        form = wording.FINDING_QUESTIONS[int(rng.integers(len(wording.FINDING_QUESTIONS)))]
        exchanges.append((form.format(finding=finding.lower()), "yes" if shown[finding] else "no"))
    (question, answer), *further = exchanges
    asked = told + follow_up(question, modality="CXR", dialect=dialect)
    return _sample(f"reading-{index:05d}", ((asked, answer), *further), "reading")


def _sample(sample_id: str, exchanges: tuple[tuple[str, str], ...], task: str) -> Sample:
    turns: list[Turn] = []
    for question, answer in exchanges:
        turns += [Turn(speaker="human", text=question), Turn(speaker="gpt", text=answer)]
    return Sample(sample_id=sample_id, turns=tuple(turns), task=task)

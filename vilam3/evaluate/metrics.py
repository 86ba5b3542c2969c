"""The arithmetic of evaluation: right or wrong, F1, intervals by patient, expert selection. Pure numpy, always seeded.

Source: the published scoring (Project-MONAI VLM-Radiology-Agent-Framework fc8c5a7, ``m3/eval``) compares stripped,
lower-case text, and takes the first ``yes|no`` anywhere in a reply, so that "nodule" and "abnormal" read as no. Here a
yes or no must be a word; every other rule is the same.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

NONE = "none"  # the label of an expert call that is not made
LEVEL = 0.95
YES_OR_NO = re.compile(r"(?<![\w'-])(yes|no)(?![\w'-])")

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A 95 % bootstrap interval."""

    low: float
    high: float


def normalise(text: str) -> str:
    """Lower case, single blanks, no closing punctuation."""
    return " ".join(text.lower().split()).rstrip(string.punctuation + " ")


def yes_or_no(reply: str) -> Literal["yes", "no"] | None:
    """The first word of `reply` that is yes or no; None where neither is one."""
    found = YES_OR_NO.search(reply.lower())
    if found is None:
        return None
    return "yes" if found[1] == "yes" else "no"


def read_answer(reply: str, *, expected: str) -> str:
    """What a reply says, in the words in which the expected answer is given; empty where it does not say."""
    if expected in {"yes", "no"}:
        return yes_or_no(reply) or ""
    return normalise(reply)


def is_right(reply: str, *, expected: str) -> bool:
    """Whether a reply is the expected answer: the same yes or no, or the same normalised text."""
    wanted = expected if expected in {"yes", "no"} else normalise(expected)
    return read_answer(reply, expected=expected) == wanted


def f1(said: Sequence[str], expected: Sequence[str]) -> float:
    """F1 of "yes" where answers are yes and no, else the plain mean of F1 over the expected answers.

    A class that is neither expected nor said counts as 0, as in scikit-learn's ``zero_division=0``.
    """
    classes = sorted(set(expected))
    if set(classes) <= {"yes", "no"}:
        classes = ["yes"]
    return float(np.mean([_f1_of(one, said, expected) for one in classes])) if classes else 0.0


def _f1_of(positive: str, said: Sequence[str], expected: Sequence[str]) -> float:
    pairs = list(zip(said, expected, strict=True))
    hits = sum(one == positive == other for one, other in pairs)
    wrong = sum((one == positive) != (other == positive) for one, other in pairs)
    return 2 * hits / (2 * hits + wrong) if hits or wrong else 0.0


def majority(expected: Sequence[str]) -> float:
    """Accuracy of always giving the most frequent answer: what a model must beat to have looked at all."""
    return max(map(list(expected).count, set(expected))) / len(expected) if expected else 0.0


def interval_by_patient(
    values: Sequence[float] | Bools | Floats, patients: Sequence[str], *, resamples: int, seed: int
) -> Interval:
    """95 % percentile bootstrap interval of the mean of `values`, drawing whole patients with replacement.

    Args:
        values: One number per question: right or wrong, or the paired difference between two ways of asking.
        patients: Pseudonym of each question's patient; questions of one patient are not independent.
        resamples: Number of bootstrap samples.
        seed: The same seed gives the same interval.
    """
    means = _resampled_means(np.asarray(values, dtype=np.float64), patients, resamples=resamples, seed=seed)
    if not means.size:
        return Interval(low=0.0, high=0.0)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(low=float(low), high=float(high))


def _resampled_means(values: Floats, patients: Sequence[str], *, resamples: int, seed: int) -> Floats:
    names, index = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    if not names.size:
        return np.zeros(0)
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    drawn_RP = np.random.default_rng(seed).multinomial(names.size, np.full(names.size, 1 / names.size), size=resamples)
    return (drawn_RP @ sums) / (drawn_RP @ counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """How often each expected expert call (rows) led to each call that was made (columns)."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def confusion(expected: Sequence[str], made: Sequence[str]) -> Confusion:
    """Count pairs of labels; `NONE` comes last."""
    labels = sorted(set(expected) | set(made), key=lambda label: (label == NONE, label))
    place = {label: index for index, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    for row, column in zip(expected, made, strict=True):
        counts[place[row], place[column]] += 1
    return Confusion(labels=tuple(labels), counts=tuple(tuple(int(count) for count in row) for row in counts))


def call_label(expert: str, argument: str = "") -> str:
    """A call as a label, such as ``VISTA3D(hepatic tumor)``; `NONE` for no expert."""
    return f"{expert}({argument})" if expert else NONE

"""What an evaluation found, as it is stored and compared; closed schemas: an old file is refused, not misread."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from vilam3.artifacts import write_json
from vilam3.errors import DataError
from vilam3.evaluate import metrics
from vilam3.evaluate.metrics import NONE

Tamper = Literal["withhold", "swap"]
DIGITS = 6  # enough to recompute, few enough to read


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Stored(_Closed):
    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            DataError: it is not there or of another form.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); give the output of vilam3 evaluate") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise DataError(f"{path}: {place}: {first['msg']}; evaluate again with this version") from error


class Estimate(_Closed):
    """A mean with its 95 % bootstrap interval by patient."""

    value: float
    low: float
    high: float


class Record(_Closed):
    """One question and what became of it; no images, no file names."""

    question_id: str
    task: str
    patient: str
    text: str
    expected: str
    reply: str
    is_right: bool
    needs_expert: bool
    is_request: bool
    expected_call: str = NONE
    made_call: str = NONE
    ending: str = "answered"
    expert_errors: tuple[str, ...] = ()


class TaskScore(_Closed):
    """One row of the accuracy table; `majority` is what always giving the most frequent answer would score."""

    task: str
    questions: int
    patients: int
    accuracy: Estimate
    f1: float
    majority: float
    is_request: bool


class Selection(_Closed):
    """Whether the right expert was called: for every question, also those that need none."""

    accuracy: Estimate
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class Provenance(_Closed):
    """What was evaluated, enough to do it again."""

    weights: str
    experts: str
    corpus: str
    split: str
    dialect: str
    seed: int
    resamples: int
    max_new_tokens: int
    version: str


class Evaluation(_Stored):
    """One way of asking all questions."""

    format: Literal["vilam3.evaluation/1"] = "vilam3.evaluation/1"
    with_experts: bool
    tamper: Tamper | None = None
    tasks: tuple[TaskScore, ...]
    selection: Selection | None = None
    provenance: Provenance
    seconds: float
    records: tuple[Record, ...]


class TaskComparison(_Closed):
    """One task without and with experts; without is None where only an expert can do what is asked."""

    task: str
    questions: int
    patients: int
    majority: float
    without_experts: Estimate | None
    with_experts: Estimate
    f1_without_experts: float | None
    f1_with_experts: float
    gain: Estimate | None


class Comparison(_Stored):
    """The same questions without and with experts; the first five fields are over the questions that need an expert."""

    format: Literal["vilam3.comparison/1"] = "vilam3.comparison/1"
    accuracy_without_experts: float
    accuracy_with_experts: float
    gain: float
    gain_ci95: tuple[float, float]
    expert_selection_accuracy: float
    accuracy_without_experts_ci95: tuple[float, float]
    accuracy_with_experts_ci95: tuple[float, float]
    questions: int
    patients: int
    tasks: tuple[TaskComparison, ...]
    selection: Selection
    provenance: Provenance

    def numbers(self) -> dict[str, float]:
        """The figures under flat names, as a tracking store keeps them."""
        named = {
            "accuracy_without_experts": self.accuracy_without_experts,
            "accuracy_with_experts": self.accuracy_with_experts,
            "gain": self.gain,
            "expert_selection_accuracy": self.expert_selection_accuracy,
        }
        return named | {f"accuracy.{row.task}": row.with_experts.value for row in self.tasks}


def summarise(
    records: Sequence[Record], *, with_experts: bool, provenance: Provenance, seconds: float, tamper: Tamper | None
) -> Evaluation:
    """Score the records task by task."""
    tasks = tuple(_score(_of_task(records, task), provenance) for task in _tasks(records))
    return Evaluation(
        with_experts=with_experts,
        tamper=tamper,
        tasks=tasks,
        selection=_selection(records, provenance) if with_experts else None,
        provenance=provenance,
        seconds=round(seconds, 3),
        records=tuple(records),
    )


def compare(without_experts: Evaluation, with_experts: Evaluation) -> Comparison:
    """Hold two evaluations of one model and one set of questions against each other, paired by question.

    Raises:
        DataError: they are not of the same model, corpus and split, or not of one way each.
    """
    _check_comparable(without_experts, with_experts)
    provenance = with_experts.provenance
    direct = {record.question_id: record for record in without_experts.records}
    consulted = [record for record in with_experts.records if record.question_id in direct and record.needs_expert]
    pairs = [(direct[record.question_id], record) for record in consulted]
    before = _estimate([one.is_right for one, _ in pairs], [one.patient for one, _ in pairs], provenance)
    after = _estimate([other.is_right for _, other in pairs], [one.patient for one, _ in pairs], provenance)
    gain = _gain(pairs, provenance)
    assert with_experts.selection is not None
    return Comparison(
        accuracy_without_experts=before.value,
        accuracy_with_experts=after.value,
        gain=gain.value,
        gain_ci95=(gain.low, gain.high),
        expert_selection_accuracy=with_experts.selection.accuracy.value,
        accuracy_without_experts_ci95=(before.low, before.high),
        accuracy_with_experts_ci95=(after.low, after.high),
        questions=len(pairs),
        patients=len({one.patient for one, _ in pairs}),
        tasks=tuple(_compare_task(score, without_experts, with_experts) for score in with_experts.tasks),
        selection=with_experts.selection,
        provenance=provenance,
    )


def _compare_task(score: TaskScore, without_experts: Evaluation, with_experts: Evaluation) -> TaskComparison:
    before = next((one for one in without_experts.tasks if one.task == score.task), None)
    direct = {record.question_id: record for record in without_experts.records}
    pairs = [
        (direct[record.question_id], record)
        for record in _of_task(with_experts.records, score.task)
        if record.question_id in direct
    ]
    return TaskComparison(
        task=score.task,
        questions=score.questions,
        patients=score.patients,
        majority=score.majority,
        without_experts=before.accuracy if before else None,
        with_experts=score.accuracy,
        f1_without_experts=before.f1 if before else None,
        f1_with_experts=score.f1,
        gain=_gain(pairs, with_experts.provenance) if pairs else None,
    )


def _check_comparable(without_experts: Evaluation, with_experts: Evaluation) -> None:
    if without_experts.with_experts or not with_experts.with_experts:
        raise DataError("compare: give the evaluation without experts first and the one with experts second")
    one, other = without_experts.provenance, with_experts.provenance
    differing = [name for name in ("weights", "corpus", "split") if getattr(one, name) != getattr(other, name)]
    if differing:
        raise DataError(f"compare: the evaluations differ in {', '.join(differing)}; evaluate one model on one split")


def _score(records: Sequence[Record], provenance: Provenance) -> TaskScore:
    expected = [metrics.normalise(record.expected) for record in records]
    said = [metrics.read_answer(record.reply, expected=record.expected) for record in records]
    return TaskScore(
        task=records[0].task,
        questions=len(records),
        patients=len({record.patient for record in records}),
        accuracy=_estimate([record.is_right for record in records], [one.patient for one in records], provenance),
        f1=round(metrics.f1(said, expected), DIGITS),
        majority=round(metrics.majority(expected), DIGITS),
        is_request=all(record.is_request for record in records),
    )


def _selection(records: Sequence[Record], provenance: Provenance) -> Selection:
    right = [record.expected_call == record.made_call for record in records]
    found = metrics.confusion([one.expected_call for one in records], [one.made_call for one in records])
    return Selection(
        accuracy=_estimate(right, [record.patient for record in records], provenance),
        labels=found.labels,
        counts=found.counts,
    )


def _gain(pairs: Iterable[tuple[Record, Record]], provenance: Provenance) -> Estimate:
    kept = list(pairs)
    differences = [float(other.is_right) - float(one.is_right) for one, other in kept]
    return _estimate(differences, [one.patient for one, _ in kept], provenance)


def _estimate(values: Sequence[float], patients: Sequence[str], provenance: Provenance) -> Estimate:
    interval = metrics.interval_by_patient(values, patients, resamples=provenance.resamples, seed=provenance.seed)
    mean = math.fsum(values) / len(values) if values else 0.0
    return Estimate(value=round(mean, DIGITS), low=round(interval.low, DIGITS), high=round(interval.high, DIGITS))


def _tasks(records: Sequence[Record]) -> list[str]:
    return sorted({record.task for record in records})


def _of_task(records: Sequence[Record], task: str) -> list[Record]:
    return [record for record in records if record.task == task]

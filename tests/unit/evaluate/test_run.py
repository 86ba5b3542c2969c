"""Asking held-out questions without and with experts."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.evaluate import clinic
from vilam3.errors import DataError
from vilam3.evaluate.results import Comparison, Evaluation, Provenance, Tamper, compare
from vilam3.evaluate.run import Examination, donors_of, examination, examine
from vilam3.model.families import AdapterConfig
from vilam3.settings import EvaluationSettings

SETTINGS = EvaluationSettings(batch=5, bootstrap_resamples=300)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Examination:
    return examination(clinic.corpus(tmp_path_factory.mktemp("corpus")), split="test", settings=SETTINGS, seed=1)


def _evaluate(asked: Examination, *, with_experts: bool, tamper: Tamper | None = None) -> Evaluation:
    return examine(asked, clinic.asker(), provenance=_provenance(asked), with_experts=with_experts, tamper=tamper)


def _provenance(asked: Examination) -> Provenance:
    return Provenance(
        weights="w",
        experts="e",
        corpus=asked.digest,
        split="test",
        dialect="",
        seed=1,
        resamples=300,
        max_new_tokens=64,
        version="0",
    )


def _accuracy(evaluation: Evaluation, task: str) -> float:
    return next(score.accuracy.value for score in evaluation.tasks if score.task == task)


def test_the_gain_is_what_experts_add(asked: Examination) -> None:
    found = compare(_evaluate(asked, with_experts=False), _evaluate(asked, with_experts=True))
    assert found.accuracy_without_experts == pytest.approx(6 / 13, abs=1e-5)  # "no" to six of twelve, and to the liver
    assert found.accuracy_with_experts == 1.0
    assert found.gain == pytest.approx(7 / 13, abs=1e-5)
    assert found.gain_ci95[0] > 0
    assert found.patients == clinic.PATIENTS


def test_selection_counts_arguments_and_questions_that_need_nobody(asked: Examination) -> None:
    """The liver question called VISTA3D for organs: the wrong call although the answer came out right."""
    found = _evaluate(asked, with_experts=True)
    assert found.selection is not None
    assert found.selection.accuracy.value == pytest.approx(14 / 15, abs=1e-5)
    place = {label: index for index, label in enumerate(found.selection.labels)}
    assert found.selection.counts[place["VISTA3D(hepatic tumor)"]][place["VISTA3D(organs)"]] == 1
    assert found.selection.counts[place["none"]][place["none"]] == 1


def test_a_request_is_only_put_where_there_are_experts(asked: Examination) -> None:
    alone, together = _evaluate(asked, with_experts=False), _evaluate(asked, with_experts=True)
    assert "segment" not in {score.task for score in alone.tasks}
    assert _accuracy(together, "segment") == 1.0
    row = next(row for row in compare(alone, together).tasks if row.task == "segment")
    assert row.without_experts is None
    assert row.gain is None


@pytest.mark.parametrize("tamper", ["withhold", "swap"])
def test_the_gain_goes_when_findings_are_withheld_or_swapped(asked: Examination, tamper: Tamper) -> None:
    """So it comes from what experts find about this patient, and from nothing else."""
    tampered = _evaluate(asked, with_experts=True, tamper=tamper)
    assert tampered.tamper == tamper
    assert _accuracy(tampered, "cxr_finding") <= 0.5


def test_an_expert_looks_once_at_a_study(tmp_path: Path) -> None:
    asked = examination(clinic.corpus(tmp_path), split="test", settings=SETTINGS, seed=1)
    first, second = clinic.asker(), clinic.asker()
    for asker in (first, second):
        examine(asked, asker, provenance=_provenance(asked), with_experts=True)
    assert isinstance(first.experts, clinic.BrightnessExperts)
    assert isinstance(second.experts, clinic.BrightnessExperts)
    assert first.experts.looks == 14
    assert second.experts.looks == 0


def test_questions_are_asked_in_batches(asked: Examination) -> None:
    asker, seen = clinic.asker(), []
    examine(
        asked,
        asker,
        provenance=_provenance(asked),
        with_experts=False,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert isinstance(asker.engine, clinic.RuleEngine)
    assert asker.engine.batches == [5, 5, 4]
    assert seen == [(5, 14), (10, 14), (14, 14)]


def test_questions_of_one_family_are_asked_together_and_kept_in_order(asked: Examination) -> None:
    """A task that counts to no family is asked of the default, by not naming any."""
    families = {"answer": ("cxr_finding", "word"), "consult": ("liver",)}
    adapters = AdapterConfig(families=families, default="answer", experts=1, rank=2, alpha=2.0)
    asker = replace(clinic.asker(), adapters=adapters)
    found = examine(asked, asker, provenance=_provenance(asked), with_experts=True)
    assert found.records == _evaluate(asked, with_experts=True).records
    assert isinstance(asker.engine, clinic.RuleEngine)
    assert set(asker.engine.tasks) == {"answer", "consult", ""}
    batch = [question.task for question in asked.questions[-5:]]
    assert batch == ["cxr_finding", "cxr_finding", "segment", "word", "liver"]
    assert {(task, size) for task, size in zip(asker.engine.tasks, asker.engine.batches, strict=True)} >= {
        ("answer", 5),
        ("answer", 3),
        ("consult", 1),
        ("", 1),
    }


def test_what_is_stored_is_read_back(asked: Examination, tmp_path: Path) -> None:
    alone, together = _evaluate(asked, with_experts=False), _evaluate(asked, with_experts=True)
    together.write(tmp_path / "with.json")
    assert Evaluation.read(tmp_path / "with.json") == together
    found = compare(alone, together)
    found.write(tmp_path / "comparison.json")
    assert Comparison.read(tmp_path / "comparison.json") == found


def test_an_old_or_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"format": "vilam3.comparison/0"}')
    with pytest.raises(DataError, match=r"old\.json: format: .*evaluate again"):
        Comparison.read(tmp_path / "old.json")
    with pytest.raises(DataError, match="cannot be read"):
        Comparison.read(tmp_path / "absent.json")


def test_only_like_is_compared_with_like(asked: Examination) -> None:
    alone, together = _evaluate(asked, with_experts=False), _evaluate(asked, with_experts=True)
    with pytest.raises(DataError, match="without experts first"):
        compare(together, alone)
    other = together.model_copy(update={"provenance": together.provenance.model_copy(update={"weights": "x"})})
    with pytest.raises(DataError, match="differ in weights"):
        compare(alone, other)


def test_a_limit_takes_the_first_questions_of_each_task(tmp_path: Path) -> None:
    few = SETTINGS.model_copy(update={"questions": 2})
    asked = examination(clinic.corpus(tmp_path), split="test", settings=few)
    assert [question.task for question in asked.questions] == ["cxr_finding", "cxr_finding", "segment", "word", "liver"]


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    clinic.corpus(tmp_path)
    with pytest.raises(DataError, match="has the splits test"):
        examination(tmp_path, split="validation")


def test_findings_are_swapped_between_patients_of_one_task(asked: Examination) -> None:
    donors = donors_of(asked.questions)
    for question in asked.questions:
        donor = donors[question.question_id]
        assert donor.task == question.task
        if question.task == "cxr_finding":
            assert donor.patient != question.patient

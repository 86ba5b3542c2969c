"""The demo's own model and experts: the gain is in what experts find about this patient, and in nothing else."""

import json
from pathlib import Path

import pytest

from vilam3 import consultant
from vilam3.evaluate.results import Comparison, Evaluation, Tamper, compare
from vilam3.evaluate.run import Examination, examination, examine, provenance_of
from vilam3.settings import EvaluationSettings

LATEST = Path(__file__).parents[2] / "runs" / "latest"
SETTINGS = EvaluationSettings(questions=40, batch=32, bootstrap_resamples=500)
FLOOR, GAIN = 0.90, 0.15


def _recipe_of_the_demo() -> str:
    path = LATEST / "summary.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["recipe"]) if path.is_file() else ""


pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(_recipe_of_the_demo() != "tiny", reason="no finished demo in runs/latest; run make demo first"),
]


@pytest.fixture(scope="module")
def asked() -> Examination:
    return examination(LATEST / "corpus", split="test", settings=SETTINGS, seed=1)


@pytest.fixture(scope="module")
def alone(asked: Examination) -> Evaluation:
    return _ask(asked, with_experts=False)


def _ask(asked: Examination, *, with_experts: bool, tamper: Tamper | None = None) -> Evaluation:
    asker = consultant.load(str(LATEST / "model"), experts=LATEST / "experts")
    provenance = provenance_of(asked, LATEST / "model", LATEST / "experts")
    return examine(asked, asker, provenance=provenance, with_experts=with_experts, tamper=tamper)


def test_with_experts_the_promised_accuracy_is_reached(asked: Examination, alone: Evaluation) -> None:
    found = compare(alone, _ask(asked, with_experts=True))
    assert found.accuracy_with_experts >= FLOOR
    assert found.gain >= GAIN
    assert found.gain_ci95[0] > 0
    assert found.expert_selection_accuracy >= 0.98


@pytest.mark.parametrize("tamper", ["withhold", "swap"])
def test_without_their_findings_the_gain_is_gone(asked: Examination, alone: Evaluation, tamper: Tamper) -> None:
    """Withheld, or handed over from another patient: then the promise must not be kept."""
    found = compare(alone, _ask(asked, with_experts=True, tamper=tamper))
    assert found.accuracy_with_experts < FLOOR
    assert found.gain < GAIN


def test_the_model_alone_has_looked() -> None:
    """The opponent is fair: in the demo's own figures it beats the most frequent answer wherever it was asked."""
    found = Comparison.read(LATEST / "evaluation" / "comparison.json")
    rows = [row for row in found.tasks if row.without_experts is not None]
    assert rows
    for row in rows:
        assert row.without_experts is not None
        assert row.without_experts.value > row.majority, row.task

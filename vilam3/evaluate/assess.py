"""The whole examination of a trained stage: choose its best checkpoint, measure it without and with experts, keep all.

The choice is made on the validation patients, the figures on the test patients.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vilam3 import consultant
from vilam3.artifacts import whole_directory
from vilam3.errors import NotFoundError
from vilam3.evaluate.examples import write_examples
from vilam3.evaluate.results import Comparison, Evaluation, compare
from vilam3.evaluate.run import Examination, OnProgress, examination, examine, is_request, provenance_of
from vilam3.evaluate.scores import Score, write_scores
from vilam3.recipe import Recipe
from vilam3.train.record import MODELS, weights_digest

COMPARISON = "comparison.json"
WITHOUT_EXPERTS = "without-experts.json"
WITH_EXPERTS = "with-experts.json"
EXAMPLES = "examples"
VALIDATION_ACCURACY = "validation_accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What came out.

    Attributes:
        best: Directory of the chosen checkpoint.
        validation: Validation accuracy by checkpoint name; empty where there was no choice.
        comparison: Of the chosen one.
    """

    best: Path
    validation: Mapping[str, float]
    comparison: Comparison


class Logs(Protocol):
    """The part of a tracking store that assessing uses."""

    def log_evaluation(self, digest: str, metrics: Mapping[str, float]) -> None:
        """Add numbers to the logged model of these weights."""
        ...


def assess(  # noqa: PLR0913 - inputs, settings and outputs of a step
    recipe: Recipe,
    *,
    checkpoint: Path,
    kept: Path | None = None,
    corpus: Path,
    experts: Path,
    out: Path,
    tracking: Logs | None = None,
    on_progress: OnProgress | None = None,
) -> Assessment:
    """Measure a finished stage and write everything found to `out`.

    Args:
        recipe: Says how many questions, in what batches, and the seed.
        checkpoint: Folder of the stage; kept earlier checkpoints lie in it,
        kept: or here.
        corpus: With validation and test questions.
        experts: Directory of the expert bundles.
        out: Directory to create: comparison, both evaluations, scores of the checkpoints, examples.
        tracking: Told the figures of every checkpoint looked at.
        on_progress: Told about questions asked, over everything.

    Raises:
        DataError: the corpus cannot be used.
        CheckpointError: a model cannot be loaded.
    """
    candidates = candidates_of(checkpoint, kept=kept)
    is_choice = len(candidates) > 1
    test = examination(corpus, split="test", settings=recipe.evaluation, seed=recipe.seed)
    validation = (
        examination(corpus, split="validation", settings=recipe.evaluation, seed=recipe.seed) if is_choice else None
    )
    tell = _counter(on_progress, total=_total(test, validation, len(candidates)))
    scores = {} if validation is None else _scores(candidates, validation, experts, tracking, tell)
    best = max(candidates, key=lambda one: (scores.get(one.name, 0.0), one == checkpoint, one.name))
    comparison = _measure(best, test, experts, out, tell, scores=scores)
    _log(tracking, best, comparison.numbers())
    return Assessment(best=best, validation=scores, comparison=comparison)


def candidates_of(checkpoint: Path, *, kept: Path | None = None) -> list[Path]:
    """The checkpoints of a stage, the final one last."""
    return [*sorted((kept or checkpoint / MODELS).glob("step-*")), checkpoint]


def _scores(
    candidates: list[Path],
    validation: Examination,
    experts: Path,
    tracking: Logs | None,
    tell: Callable[[], OnProgress],
) -> dict[str, float]:
    scores: dict[str, float] = {}
    for candidate in candidates:
        found = _ask(candidate, validation, experts, tell(), with_experts=True)
        scores[candidate.name] = _accuracy(found)
        _log(tracking, candidate, {VALIDATION_ACCURACY: scores[candidate.name]})
    return scores


def _log(tracking: Logs | None, checkpoint: Path, numbers: Mapping[str, float]) -> None:
    if tracking is not None:
        with contextlib.suppress(NotFoundError):  # weights that were trained elsewhere are no logged model here
            tracking.log_evaluation(weights_digest(checkpoint), numbers)


def _measure(
    best: Path,
    test: Examination,
    experts: Path,
    out: Path,
    tell: Callable[[], OnProgress],
    *,
    scores: Mapping[str, float],
) -> Comparison:
    provenance = provenance_of(test, best, experts)
    asker = consultant.load(str(best), experts=experts)
    alone = examine(test, asker, provenance=provenance, with_experts=False, on_progress=tell())
    together = examine(test, asker, provenance=provenance, with_experts=True, on_progress=tell())
    comparison = compare(alone, together)
    with whole_directory(out) as partial:
        alone.write(partial / WITHOUT_EXPERTS)
        together.write(partial / WITH_EXPERTS)
        comparison.write(partial / COMPARISON)
        told = [Score(checkpoint=name, accuracy=one, is_chosen=name == best.name) for name, one in scores.items()]
        write_scores(told, partial)
        write_examples(test, asker, partial / EXAMPLES)
    return comparison


def _ask(
    checkpoint: Path, asked: Examination, experts: Path, on_progress: OnProgress, *, with_experts: bool
) -> Evaluation:
    asker = consultant.load(str(checkpoint), experts=experts)
    provenance = provenance_of(asked, checkpoint, experts)
    return examine(asked, asker, provenance=provenance, with_experts=with_experts, on_progress=on_progress)


def _accuracy(evaluation: Evaluation) -> float:
    right = [record.is_right for record in evaluation.records]
    return sum(right) / len(right)


def _total(test: Examination, validation: Examination | None, num_candidates: int) -> int:
    alone = [question for question in test.questions if not is_request(question)]
    return len(alone) + len(test.questions) + (num_candidates * len(validation.questions) if validation else 0)


def _counter(on_progress: OnProgress | None, *, total: int) -> Callable[[], OnProgress]:
    """Makes one count of several rounds, each of which counts its own questions."""
    finished = 0

    def next_round() -> OnProgress:
        begun = finished

        def report(done: int, _: int) -> None:
            nonlocal finished
            finished = begun + done
            if on_progress is not None:
                on_progress(finished, total)

        return report

    return next_round

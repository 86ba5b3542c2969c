"""Step: measure a trained stage without and with experts."""

from kfp import dsl

from components.step import step


@step
def evaluate(  # noqa: PLR0913, PLR0917 - inputs and outputs of a step
    recipe: str,
    corpus: dsl.Input[dsl.Dataset],
    experts: dsl.Input[dsl.Model],
    checkpoint: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    selection: dsl.Output[dsl.ClassificationMetrics],
    kept: str = "",
    contents: str = "",  # noqa: ARG001 - makes KFP's cache key change with what lies at the places given
) -> None:
    """Choose the best checkpoint on validation patients and measure it on test patients."""
    from pathlib import Path

    from vilam3 import steps
    from vilam3.artifacts import write_json
    from vilam3.recipe import parse_resolved

    found = steps.evaluate(
        parse_resolved(recipe),
        checkpoint=Path(checkpoint.path),
        kept=kept,
        corpus=Path(corpus.path),
        experts=Path(experts.path),
        model=Path(model.path),
        evaluation=Path(evaluation.path),
    ).comparison
    write_json(Path(metrics.path), found.numbers())  # without files, the local cache takes the step for unfinished
    write_json(Path(selection.path), found.selection.model_dump(mode="json"))
    for name, value in found.numbers().items():
        metrics.log_metric(name, value)
    selection.log_confusion_matrix(list(found.selection.labels), [list(row) for row in found.selection.counts])

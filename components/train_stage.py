"""Step: train one stage."""

from typing import Optional

from kfp import dsl

from components.step import step


@step
def train_stage(  # noqa: PLR0913, PLR0917 - inputs, settings and outputs of a step
    recipe: str,
    stage: str,
    corpus: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    base: Optional[dsl.Input[dsl.Model]] = None,  # noqa: UP045 - KFP reads an optional artifact in this spelling only
    launcher: str = "local",
    workers: int = 0,
    strategy: str = "",
    checkpoints: str = "",
    contents: str = "",  # noqa: ARG001 - makes KFP's cache key change with what lies at the places given
) -> None:
    """Train a stage of the recipe from `base`, or from nothing; a stage that was killed goes on."""
    from pathlib import Path

    from vilam3 import steps
    from vilam3.artifacts import write_json
    from vilam3.recipe import parse_resolved

    result = steps.train_stage(
        parse_resolved(recipe),
        stage=stage,
        corpus=Path(corpus.path),
        base=Path(base.path) if base else None,
        checkpoint=Path(checkpoint.path),
        page=Path(page.path),
        how={"launcher": launcher, "workers": str(workers or ""), "strategy": strategy, "checkpoints": checkpoints},
    )
    figures = {"final_loss": result.final_loss, "seconds": result.seconds}
    figures |= result.expense.numbers() if result.expense else {}
    write_json(Path(metrics.path), figures)  # without a file, the local cache takes the step for unfinished
    for name, value in figures.items():
        metrics.log_metric(name, value)
    checkpoint.metadata.update(stage=stage, weights_digest=result.weights_digest)

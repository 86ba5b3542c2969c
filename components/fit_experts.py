"""Step: fit the small experts."""

from kfp import dsl

from components.step import step


@step
def fit_experts(
    recipe: str, corpus: dsl.Input[dsl.Dataset], experts: dsl.Output[dsl.Model], metrics: dsl.Output[dsl.Metrics]
) -> None:
    """Fit the three experts on the corpus, in the published layouts."""
    from pathlib import Path

    from vilam3 import steps
    from vilam3.artifacts import write_json
    from vilam3.recipe import parse_resolved

    figures = steps.fit_experts(parse_resolved(recipe), corpus=Path(corpus.path), experts=Path(experts.path))
    write_json(Path(metrics.path), figures)  # without a file, the local cache takes the step for unfinished
    for name, value in figures.items():
        metrics.log_metric(name, value)

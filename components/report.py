"""Step: write the report."""

from kfp import dsl

from components.step import step


@step
def report(
    recipe: str,
    released: str,
    experts: dsl.Input[dsl.Model],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
) -> str:
    """Write one self-contained page; returns the summary as JSON."""
    import json
    from pathlib import Path

    from vilam3 import steps
    from vilam3.recipe import parse_resolved

    summary = steps.report(
        parse_resolved(recipe),
        model=Path(model.path),
        experts=Path(experts.path),
        evaluation=Path(evaluation.path),
        released=released,
        page=Path(page.path),
    )
    return json.dumps(summary, sort_keys=True)

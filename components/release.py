"""Step: register, gate, promote."""

from kfp import dsl

from components.step import step


@step
def release(
    recipe: str,
    corpus: dsl.Input[dsl.Dataset],
    experts: dsl.Input[dsl.Model],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
) -> str:
    """Register the model and promote it if the gate lets it pass; returns version, alias and decision as JSON."""
    from pathlib import Path

    from vilam3 import steps
    from vilam3.recipe import parse_resolved

    released = steps.release(
        parse_resolved(recipe),
        model=Path(model.path),
        source=model.uri,
        evaluation=Path(evaluation.path),
        corpus=Path(corpus.path),
        experts=Path(experts.path),
    )
    return released.model_dump_json()

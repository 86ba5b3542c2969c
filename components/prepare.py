"""Step: draw the corpus."""

from kfp import dsl

from components.step import step


@step
def prepare(recipe: str, corpus: dsl.Output[dsl.Dataset]) -> None:
    """Draw the phantom patients of the recipe: conversations, held-out questions, expert material."""
    from pathlib import Path

    from vilam3 import steps
    from vilam3.recipe import parse_resolved

    manifest = steps.prepare(parse_resolved(recipe), corpus=Path(corpus.path))
    corpus.metadata.update(name=manifest["name"], digest=manifest["digest"])

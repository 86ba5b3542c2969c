"""Step: what a run is made of, settled before anything computes."""

from typing import NamedTuple

from components.step import step


@step
def resolve(
    recipe: str,
    overrides: str = "",
    corpus: str = "",
    corpus_digest: str = "",
    base: str = "",
    experts: str = "",
) -> NamedTuple("Resolved", [("recipe", str), ("contents", str)]):  # type: ignore[valid-type]  # what KFP reads
    """Put the overrides into the recipe, check the corpus's digest, and say what lies at the places given."""
    from vilam3 import steps
    from vilam3.recipe import parse_resolved

    found = steps.resolve(
        parse_resolved(recipe),
        overrides=overrides,
        places={"corpus": corpus, "base": base, "experts": experts},
        corpus_digest=corpus_digest,
    )
    return (found.recipe.resolved_json(), found.contents)

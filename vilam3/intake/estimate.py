"""What a run will take, by the plan of its stages."""

from collections.abc import Mapping, Sequence

from vilam3.intake.event import Estimate
from vilam3.recipe import Recipe
from vilam3.train.plan import Assumptions, Work, plan


def estimate(
    recipe: Recipe, stages: Sequence[str], *, samples: Mapping[str, int], assumptions: Assumptions
) -> Estimate:
    """Sum the plans of some stages.

    Args:
        recipe: Resolved.
        stages: Of it.
        samples: By data set, as the corpus states; empty for the recipe's published counts.
        assumptions: What the recipe does not say.

    Raises:
        RecipeError: the recipe has no such stage.
    """
    for stage in stages:
        recipe.stage(stage)
    plans = [one for one in plan(recipe, assumptions, sizes_known=samples or None) if one.name in stages]
    works = [one.work for one in plans if one.work is not None]
    known = works if len(works) == len(plans) else []
    return Estimate(
        accelerator=assumptions.accelerator.name,
        utilisation=assumptions.utilisation,
        steps=_whole(known, "steps"),
        samples=_whole(known, "samples"),
        tokens=_whole(known, "tokens"),
        gpu_hours=_sum(known, "gpu_hours"),
        wall_hours=_sum(known, "wall_hours"),
        energy_kwh=_sum(known, "energy_kwh"),
        cost=_sum(known, "cost") if assumptions.price_per_hour is not None else None,
        unknown=tuple(sorted({name for one in plans for name in one.unknown})),
    )


def _whole(works: Sequence[Work], name: str) -> int | None:
    return sum(getattr(one, name) for one in works) if works else None


def _sum(works: Sequence[Work], name: str) -> float | None:
    return round(sum(getattr(one, name) for one in works), 6) if works else None

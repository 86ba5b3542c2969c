"""Step: train one stage by a job of its own."""

from typing import NamedTuple

from kfp import dsl

from components.step import step


@step
def launch_stage(  # noqa: PLR0913, PLR0917 - inputs, settings and outputs of a step
    recipe: str,
    stage: str,
    corpus: str,
    base: str,
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    workers: int = 0,
    strategy: str = "",
    checkpoints: str = "",
    contents: str = "",  # noqa: ARG001 - makes KFP's cache key change with what lies at the places given
) -> NamedTuple("Launched", [("model", str), ("kept", str)]):  # type: ignore[valid-type]  # what KFP reads
    """Train a stage by a job of its own, from `base` or from nothing; places are URIs, which no step copies."""
    from pathlib import Path

    from vilam3 import steps
    from vilam3.recipe import parse_resolved

    found = steps.launch_stage(
        parse_resolved(recipe),
        stage=stage,
        corpus=corpus,
        base=base,
        how={"workers": str(workers or ""), "strategy": strategy, "checkpoints": checkpoints},
        template=Path("/etc/vilam3/job.json"),
        page=Path(page.path),
    )
    metrics.log_metric("final_loss", found.result.final_loss)
    metrics.log_metric("seconds", found.result.seconds)
    for name, value in (found.account.expense.numbers() if found.account.expense else {}).items():
        metrics.log_metric(name, value)
    metrics.log_metric("worker_hours", found.account.worker_hours("starting", "running"))
    for phase, seconds in found.account.seconds.items():
        metrics.log_metric(f"seconds_{phase}", seconds)
    return (found.model, found.kept)

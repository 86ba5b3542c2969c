"""The run in one JSON object and one table; everything in it but times and memory follows from recipe and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from vilam3.evaluate.release import Release
from vilam3.evaluate.results import Comparison, Estimate
from vilam3.evaluate.scores import Score
from vilam3.progress import format_seconds
from vilam3.recipe import Recipe
from vilam3.train.record import StageResult

FORMAT = "vilam3.summary/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything a report is made of.

    Attributes:
        recipe: Of the run.
        stages: Training stages that led to the model, first one first.
        experts: Validation figures of the small experts, by name.
        checkpoints: What those of the last stage scored on validation patients; empty where there was no choice.
        comparison: Of the model without and with experts.
        release: What became of it.
        examples: Folder of conversations, see `vilam3.evaluate.examples`.
    """

    recipe: Recipe
    stages: Sequence[StageResult]
    experts: Mapping[str, Mapping[str, float]]
    checkpoints: Sequence[Score]
    comparison: Comparison
    release: Release
    examples: Path


def summarise(findings: Findings) -> dict[str, Any]:
    """The summary, but for what only the whole run knows: its time and memory."""
    comparison, release = findings.comparison, findings.release
    return {
        "format": FORMAT,
        "recipe": findings.recipe.name,
        "recipe_digest": findings.recipe.digest,
        "seed": findings.recipe.seed,
        "accuracy_without_experts": comparison.accuracy_without_experts,
        "accuracy_without_experts_ci95": list(comparison.accuracy_without_experts_ci95),
        "accuracy_with_experts": comparison.accuracy_with_experts,
        "accuracy_with_experts_ci95": list(comparison.accuracy_with_experts_ci95),
        "gain": comparison.gain,
        "gain_ci95": list(comparison.gain_ci95),
        "expert_selection_accuracy": comparison.expert_selection_accuracy,
        "questions": comparison.questions,
        "patients": comparison.patients,
        "tasks": [row.model_dump(mode="json") for row in comparison.tasks],
        "stages": [_stage(stage) for stage in findings.stages],
        "checkpoints": [asdict(score) for score in findings.checkpoints],
        "experts": {name: dict(figures) for name, figures in findings.experts.items()},
        "model": release.model,
        "model_version": release.version,
        "model_alias": release.alias,
        "gate": release.gate.model_dump(mode="json"),
        "provenance": comparison.provenance.model_dump(mode="json"),
    }


def table(comparison: Comparison, summary: Mapping[str, Any]) -> list[Table]:
    """The closing tables: accuracy by task, time by stage, and what became of the model."""
    return [accuracy_table(comparison), _stage_table(summary), _outcome_table(summary)]


def _stage(stage: StageResult) -> dict[str, Any]:
    return {
        "name": stage.name,
        "seconds": stage.seconds,
        "final_loss": round(stage.final_loss, 6),
        "steps": stage.steps,
        "samples": stage.samples,
    }


def accuracy_table(comparison: Comparison) -> Table:
    """Each task without and with experts, and all questions that need an expert together."""
    shown = Table(
        title="Accuracy on held-out patients in %, with 95 % bootstrap intervals by patient",
        caption="guess: what always giving the most frequent answer would score",
        box=box.SIMPLE,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    shown.add_column("task", no_wrap=True)
    for heading in ("n", "guess"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for heading in ("without experts", "with experts", "gain"):
        shown.add_column(heading, justify="right", min_width=len("(100.0..100.0)"))
    for row in comparison.tasks:
        estimates = (row.without_experts, row.with_experts, row.gain)
        shown.add_row(row.task, str(row.questions), f"{100 * row.majority:.1f}", *map(_short, estimates))
    shown.add_section()
    overall = (
        _figure(comparison.accuracy_without_experts, comparison.accuracy_without_experts_ci95),
        _figure(comparison.accuracy_with_experts, comparison.accuracy_with_experts_ci95),
        _figure(comparison.gain, comparison.gain_ci95),
    )
    shown.add_row("all needing experts", str(comparison.questions), "", *map(_short, overall), style="bold")
    return shown


def _stage_table(summary: Mapping[str, Any]) -> Table:
    shown = Table(title="Training", box=box.SIMPLE)
    for heading in ("stage", "steps", "final loss", "time"):
        shown.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage in summary["stages"]:
        shown.add_row(
            stage["name"], str(stage["steps"]), f"{stage['final_loss']:.4f}", format_seconds(stage["seconds"])
        )
    return shown


def _outcome_table(summary: Mapping[str, Any]) -> Table:
    shown = Table(title="Outcome", show_header=False, box=box.SIMPLE)
    gate = summary["gate"]
    shown.add_row("expert selection", percent(summary["expert_selection_accuracy"]))
    shown.add_row("model version", f"{summary['model']} {summary['model_version']} ({summary['model_alias']})")
    shown.add_row("gate", "passed" if gate["passed"] else "refused: " + "; ".join(gate["reasons"]))
    if "seconds_total" in summary:
        shown.add_row("time, this run", format_seconds(summary["seconds_total"]))
        shown.add_row("peak memory", f"{summary['peak_rss_mb']:.0f} MB")
    return shown


def percent(value: float | None) -> str:
    """``93.4 %``, or a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f} %"


def interval(estimate: Estimate | None, *, unit: str = " %") -> str:
    """``93.4 % (90.1 to 96.2)``, or a dash where there is none."""
    if estimate is None:
        return "-"
    return f"{100 * estimate.value:.1f}{unit} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _short(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f}..{100 * estimate.high:.1f})"


def _figure(value: float, bounds: tuple[float, float]) -> Estimate:
    return Estimate(value=value, low=bounds[0], high=bounds[1])

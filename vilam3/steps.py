"""What each step of a pipeline does, given a recipe and paths; the place of every wire between the parts. Knows no KFP.

A step may be killed and run again: it takes up what it had begun (see `vilam3.workplace`) and comes to the same result.
"""

# ruff: noqa: PLC0415 - each step is a process of its own and imports only what it needs

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from vilam3.artifacts import write_json, write_text
from vilam3.errors import CheckpointError, RecipeError
from vilam3.recipe import Recipe
from vilam3.train.record import MODELS, StageResult, digest_of
from vilam3.workplace import hand_over, lineage, runs_folder, working

if TYPE_CHECKING:
    from vilam3.evaluate.assess import Assessment
    from vilam3.evaluate.release import Release
    from vilam3.launch.run import Outcome
    from vilam3.tracking import Tracking, Version

EXPERT_FIGURES = "fitting.json"  # in the experts' directory: what fitting measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What a run is made of.

    Attributes:
        recipe: With its overrides.
        contents: Digest that changes with what lies at the places given.
    """

    recipe: Recipe
    contents: str


def resolve(recipe: Recipe, *, overrides: str, places: Mapping[str, str], corpus_digest: str) -> Resolved:
    """Settle what a run is made of, before anything computes.

    Args:
        recipe: Resolved.
        overrides: TOML that replaces some of its values; may be empty.
        places: Of corpus, base and experts; empty where the run makes them.
        corpus_digest: Which corpus is meant; empty for whichever is there.

    Raises:
        RecipeError: the overrides are not allowed.
        DataError: there is nothing at a place, or another corpus.
    """
    from vilam3.contents import check_corpus, contents_of
    from vilam3.recipe import overridden

    if corpus_digest:
        check_corpus(places["corpus"], corpus_digest)
    return Resolved(recipe=overridden(recipe, overrides), contents=contents_of(places))


def prepare(recipe: Recipe, *, corpus: Path) -> dict[str, Any]:
    """Draw the phantoms of the recipe.

    Returns:
        The manifest of the corpus.

    Raises:
        RecipeError: the recipe describes no corpus.
    """
    from vilam3.corpus.build import build_corpus

    with working("prepare", recipe) as place:
        if recipe.corpus is None:
            raise RecipeError(f"recipe {recipe.name}: has no [corpus] section; add one, or give a corpus of your own")
        return build_corpus(
            recipe.corpus,
            corpus,
            seed=recipe.seed,
            dialect=recipe.model.dialect,
            on_progress=place.report,
        )


def fit_experts(recipe: Recipe, *, corpus: Path, experts: Path) -> dict[str, float]:
    """Fit the small experts; one that was finished before a kill is not fitted again.

    Returns:
        What fitting measured, as ``<expert>.<figure>``.
    """
    from vilam3.artifacts import sha256_tree
    from vilam3.experts.fitting import fit_expert

    steps = {
        "vista3d": recipe.experts.vista3d_steps,
        "brats": recipe.experts.brats_steps,
        "cxr": recipe.experts.cxr_steps,
    }
    with working("experts", recipe) as place:
        inputs = digest_of({"material": sha256_tree(corpus / "experts"), "steps": steps, "seed": recipe.seed})
        begun = place.state / "experts" / inputs[:12]
        figures: dict[str, dict[str, float]] = {}
        for name, num_steps in steps.items():
            record = begun / f"{name}.json"
            if not record.is_file():
                with place.reporting(f"expert {name}") as report:
                    found = fit_expert(name, corpus, begun, steps=num_steps, seed=recipe.seed, on_progress=report)
                write_json(record, found)
            figures[name] = json.loads(record.read_text(encoding="utf-8"))
        write_json(begun / EXPERT_FIGURES, figures)
        hand_over(begun, experts)
    return {f"{name}.{figure}": value for name, found in figures.items() for figure, value in found.items()}


def train_stage(
    recipe: Recipe,
    *,
    stage: str,
    corpus: Path,
    base: Path | None,
    checkpoint: Path,
    page: Path | None = None,
    how: Mapping[str, str] | None = None,
) -> StageResult:
    """Train one stage, or go on with it.

    Args:
        recipe: Resolved.
        stage: Which of its stages.
        corpus: A prepared corpus.
        base: Checkpoint of the stage before.
        checkpoint: Where the finished stage goes.
        page: HTML file to write: what the stage took.
        how: Launcher, workers, strategy and checkpoints as text, empty for what the recipe says.
    """
    from vilam3.report import expense
    from vilam3.train import launch

    with working(stage, recipe) as place:
        out = place.state / stage
        result = launch.run(
            recipe,
            stage=stage,
            corpus=str(corpus),
            base="" if base is None else str(base),
            out=out,
            how=replace(launch.from_texts(how or {}, runs=place.runs), began_s=launch.process_began_s()),
            on_progress=place.report,
        )
        hand_over(out, checkpoint, base=base)
        if page is not None:
            write_text(page, expense.page(stage, {stage: result.expense} if result.expense else {}))
    return result


def launch_stage(
    recipe: Recipe, *, stage: str, corpus: str, base: str, how: Mapping[str, str], template: Path, page: Path
) -> "Outcome":
    """Train one stage by a job of the cluster that this step runs in, or go on watching the one that does.

    Args:
        recipe: Resolved.
        stage: Which of its stages.
        corpus: A prepared corpus, ``s3://``.
        base: Checkpoint of the stage before, likewise; empty where stage 1 starts from nothing.
        how: Workers, strategy and checkpoints as text, empty for what recipe and installation say.
        template: Of the job, as the installation left it.
        page: HTML file to write.
    """
    from vilam3.launch.step import launch_step

    return launch_step(
        recipe, stage=stage, corpus=corpus, base=base, how=how, template=template, page=page, runs=runs_folder()
    )


def evaluate(
    recipe: Recipe, *, checkpoint: Path, kept: str = "", corpus: Path, experts: Path, model: Path, evaluation: Path
) -> "Assessment":
    """Choose the best checkpoint of a stage, measure it without and with experts, and hand it over as `model`.

    Args:
        recipe: Resolved.
        checkpoint: The finished stage.
        kept: Place of the models that were kept while it was trained, where they are not in it: a path or ``s3://``.
        corpus: A prepared corpus.
        experts: Directory of the experts.
        model: Where the best one goes.
        evaluation: Where the numbers go.
    """
    from vilam3.evaluate.assess import assess
    from vilam3.train.sources import brought

    with working("evaluate", recipe) as place:
        found = assess(
            recipe,
            checkpoint=checkpoint,
            kept=brought(kept) if kept else None,
            corpus=corpus,
            experts=experts,
            out=evaluation,
            tracking=_tracking(recipe, place.runs),
            on_progress=place.report,
        )
        hand_over(found.best, model, base=checkpoint, without=MODELS)
    return found


def release(recipe: Recipe, *, model: Path, source: str, evaluation: Path, corpus: Path, experts: Path) -> "Release":
    """Register the model, let the gate decide, and promote it or leave it the challenger.

    Args:
        recipe: Floors, margin and names.
        model: The checkpoint.
        source: Where its weights stay, path or URI.
        evaluation: Of the model.
        corpus: For measuring a champion whose numbers are from other questions.
        experts: Likewise.
    """
    from vilam3.evaluate import assess
    from vilam3.evaluate.release import candidate_of
    from vilam3.evaluate.release import release as decide_and_promote
    from vilam3.evaluate.results import Comparison

    with working("release", recipe) as place:
        comparison = Comparison.read(evaluation / assess.COMPARISON)
        stages = lineage(model)
        candidate = candidate_of(
            model,
            name=f"{recipe.name}-{stages[-1].name}" if stages else recipe.name,
            source=source if urlsplit(source).scheme else Path(source).absolute().as_uri(),
            step=stages[-1].weights_step if stages else 0,
            comparison=comparison,
        )
        return decide_and_promote(
            candidate,
            comparison,
            policy=recipe.gate,
            tracking=_tracking(recipe, place.runs),
            measure=lambda version: _measure(recipe, version, corpus=corpus, experts=experts),
        )


def report(
    recipe: Recipe, *, model: Path, experts: Path, evaluation: Path, released: str, page: Path
) -> dict[str, Any]:
    """Write the page.

    Args:
        recipe: Of the run.
        model: The checkpoint, with its lineage.
        experts: Directory of the experts.
        evaluation: Of the model.
        released: What `release` returned, as JSON.
        page: HTML file to write.

    Returns:
        The summary, but for the time and memory of the whole run.
    """
    from vilam3.evaluate import assess
    from vilam3.evaluate.release import Release
    from vilam3.evaluate.results import Comparison
    from vilam3.evaluate.scores import read_scores
    from vilam3.report.page import write_report
    from vilam3.report.summary import Findings, summarise

    with working("report", recipe):
        findings = Findings(
            recipe=recipe,
            stages=lineage(model),
            experts=_expert_figures(experts),
            checkpoints=read_scores(evaluation),
            comparison=Comparison.read(evaluation / assess.COMPARISON),
            release=Release.model_validate_json(released),
            examples=evaluation / assess.EXAMPLES,
        )
        write_report(findings, page)
    return summarise(findings)


def _tracking(recipe: Recipe, runs: Path) -> "Tracking":
    from vilam3.tracking import connect

    return connect(experiment=recipe.tracking.experiment, registered_model=recipe.tracking.registered_model, runs=runs)


def _measure(recipe: Recipe, version: "Version", *, corpus: Path, experts: Path) -> Mapping[str, float]:
    """Accuracy by task of a version whose stored numbers are from other questions."""
    from vilam3.evaluate.run import evaluate as ask

    place = urlsplit(version.source)
    if place.scheme not in {"", "file"}:
        raise CheckpointError(
            f"champion version {version.number}: was measured on other questions, and its weights at {version.source} "
            "are not here to be measured again; copy them here and register them from there"
        )
    found = ask(
        Path(unquote(place.path)),
        corpus,
        experts,
        split="test",
        with_experts=True,
        settings=recipe.evaluation,
        seed=recipe.seed,
    )
    return {f"accuracy.{score.task}": score.accuracy.value for score in found.tasks}


def _expert_figures(experts: Path) -> dict[str, dict[str, float]]:
    path = experts / EXPERT_FIGURES
    if not path.is_file():  # published experts bring none
        return {}
    found: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))
    return found

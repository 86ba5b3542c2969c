"""The part both pipelines end with: measure, release through the gate, report."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import PipelineTask
from kfp.dsl.pipeline_channel import PipelineChannel

from components.evaluate import evaluate
from components.release import release
from components.report import report
from pipelines.place import Place


class Outputs(NamedTuple):
    """What a pipeline gives back."""

    summary: str
    page: dsl.HTML
    model: dsl.Model
    evaluation: dsl.Artifact
    experts: dsl.Model
    corpus: dsl.Dataset


def judge(
    settled: PipelineTask,
    *,
    corpus: PipelineChannel,
    experts: PipelineChannel,
    checkpoint: PipelineChannel,
    kept: PipelineChannel | None = None,
    place: Place,
) -> Outputs:
    """Measure a trained stage, register it, let the gate decide, and write the report.

    Args:
        settled: The step that resolved the recipe.
        corpus: A prepared corpus.
        experts: Directory of expert bundles.
        checkpoint: The trained stage.
        kept: URI of the models that were kept while it was trained, where they are not in it.
        place: Where the steps run.
    """
    recipe, beside = settled.outputs["recipe"], {} if kept is None else {"kept": kept}
    examined = {"corpus": corpus, "experts": experts, "checkpoint": checkpoint, **beside}
    measured = place.heavy(evaluate(recipe=recipe, contents=settled.outputs["contents"], **examined))
    found = {"model": measured.outputs["model"], "evaluation": measured.outputs["evaluation"], "experts": experts}
    # The registry and its champion are outside what a cache key knows, so this step always runs.
    released = place.heavy(release(recipe=recipe, corpus=corpus, **found)).set_caching_options(enable_caching=False)
    told = place.light(report(recipe=recipe, released=released.outputs["Output"], **found))
    return Outputs(summary=told.outputs["Output"], page=told.outputs["page"], corpus=corpus, **found)

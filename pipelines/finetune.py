"""The whole training: corpus, experts, every stage of the recipe, evaluation, gate, registration, report.

What a recipe describes is made; what it does not describe is asked for by URI. So a person sees only parameters that
have an effect: three forms of one pipeline, one function each.
"""

from collections.abc import Mapping, Sequence

from kfp import dsl
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.pipeline_channel import PipelineChannel

from components.fit_experts import fit_experts
from components.prepare import prepare
from components.train_stage import train_stage
from pipelines.judge import Outputs, judge
from pipelines.launched import launched
from pipelines.place import Place
from vilam3.recipe import Recipe
from vilam3.settings import StageName

NAME = "vilam3-finetune"


def finetune(recipe: Recipe, *, place: Place, first: StageName | None = None) -> BaseComponent:
    """The pipeline of a recipe.

    Args:
        recipe: Its stages become steps, and its resources theirs; both are fixed when this is compiled.
        place: Where the steps run.
        first: Begin with this stage instead of the recipe's first, from a checkpoint of the stage before.

    Raises:
        RecipeError: the recipe has no such stage.
    """
    names = recipe.stage_names
    if first is not None:
        recipe.stage(first)
        names = names[names.index(first) :]
    if place.launcher == "rayjob":
        return launched(recipe, names, name=NAME, place=place)
    if recipe.corpus is None:
        return _on_given_data(recipe, names, place)
    if first is not None or recipe.model.vocab_size is None:
        return _from_checkpoint(recipe, names, place)
    return _from_nothing(recipe, names, place)


def _from_nothing(resolved: Recipe, stages: Sequence[str], place: Place) -> BaseComponent:
    @dsl.pipeline(name=NAME)
    def pipeline(
        recipe: str = resolved.resolved_json(),
        launcher: str = "local",
        workers: str = "",
        strategy: str = "",
        checkpoints: str = "",
    ) -> Outputs:
        """Train VILA-M3 and its experts on phantoms from nothing, measure it, and release it through the gate.

        Args:
            recipe: Resolved recipe, one JSON text. Its stages and resources are those this was compiled with.
            launcher: local: one process | ray: a process for each accelerator of the pod, restarted when one is lost.
            workers: With ray: number of processes; empty for the stage's devices.
            strategy: With ray: ddp, zero1, zero2, zero3 or fsdp2; empty for what the stage says.
            checkpoints: With ray: s3://bucket/prefix of the state a new pod goes on from; empty keeps it in the pod.
        """
        how = {"launcher": launcher, "workers": workers, "strategy": strategy, "checkpoints": checkpoints}
        corpus, experts = _phantoms(recipe, place)
        return _train_and_judge(recipe, stages, corpus=corpus, experts=experts, base=None, place=place, how=how)

    return pipeline


def _from_checkpoint(resolved: Recipe, stages: Sequence[str], place: Place) -> BaseComponent:
    @dsl.pipeline(name=NAME)
    def pipeline(
        base_checkpoint: str,
        recipe: str = resolved.resolved_json(),
        launcher: str = "local",
        workers: str = "",
        strategy: str = "",
        checkpoints: str = "",
    ) -> Outputs:
        """Train VILA-M3 on phantoms from a checkpoint, measure it, and release it through the gate.

        Args:
            base_checkpoint: URI of the checkpoint to start from, in the published three-folder layout.
            recipe: Resolved recipe, one JSON text. Its stages and resources are those this was compiled with.
            launcher: local: one process | ray: a process for each accelerator of the pod, restarted when one is lost.
            workers: With ray: number of processes; empty for the stage's devices.
            strategy: With ray: ddp, zero1, zero2, zero3 or fsdp2; empty for what the stage says.
            checkpoints: With ray: s3://bucket/prefix of the state a new pod goes on from; empty keeps it in the pod.
        """
        how = {"launcher": launcher, "workers": workers, "strategy": strategy, "checkpoints": checkpoints}
        corpus, experts = _phantoms(recipe, place)
        base = dsl.importer(artifact_uri=base_checkpoint, artifact_class=dsl.Model).output
        return _train_and_judge(recipe, stages, corpus=corpus, experts=experts, base=base, place=place, how=how)

    return pipeline


def _on_given_data(resolved: Recipe, stages: Sequence[str], place: Place) -> BaseComponent:
    @dsl.pipeline(name=NAME)
    def pipeline(  # noqa: PLR0913, PLR0917 - the form that a person fills in
        base_checkpoint: str,
        corpus: str,
        experts: str,
        recipe: str = resolved.resolved_json(),
        launcher: str = "local",
        workers: str = "",
        strategy: str = "",
        checkpoints: str = "",
    ) -> Outputs:
        """Train VILA-M3 on given data from a checkpoint, measure it, and release it through the gate.

        Args:
            base_checkpoint: URI of the checkpoint to start from, in the published three-folder layout.
            corpus: URI of a prepared corpus.
            experts: URI of a directory of expert bundles.
            recipe: Resolved recipe, one JSON text. Its stages and resources are those this was compiled with.
            launcher: local: one process | ray: a process for each accelerator of the pod, restarted when one is lost.
            workers: With ray: number of processes; empty for the stage's devices.
            strategy: With ray: ddp, zero1, zero2, zero3 or fsdp2; empty for what the stage says.
            checkpoints: With ray: s3://bucket/prefix of the state a new pod goes on from; empty keeps it in the pod.
        """
        how = {"launcher": launcher, "workers": workers, "strategy": strategy, "checkpoints": checkpoints}
        base = dsl.importer(artifact_uri=base_checkpoint, artifact_class=dsl.Model).output
        data = dsl.importer(artifact_uri=corpus, artifact_class=dsl.Dataset).output
        bundles = dsl.importer(artifact_uri=experts, artifact_class=dsl.Model).output
        return _train_and_judge(recipe, stages, corpus=data, experts=bundles, base=base, place=place, how=how)

    return pipeline


def _phantoms(recipe: str, place: Place) -> tuple[PipelineChannel, PipelineChannel]:
    corpus = place.light(prepare(recipe=recipe)).outputs["corpus"]
    experts = place.heavy(fit_experts(recipe=recipe, corpus=corpus)).outputs["experts"]
    return corpus, experts


def _train_and_judge(
    recipe: str,
    stages: Sequence[str],
    *,
    corpus: PipelineChannel,
    experts: PipelineChannel,
    base: PipelineChannel | None,
    place: Place,
    how: Mapping[str, str],
) -> Outputs:
    checkpoint = base
    for stage in stages:
        start = {} if checkpoint is None else {"base": checkpoint}
        trained = place.heavy(train_stage(recipe=recipe, stage=stage, corpus=corpus, **start, **how), name=stage)
        checkpoint = trained.outputs["checkpoint"]
    return judge(recipe, corpus=corpus, experts=experts, checkpoint=checkpoint, place=place)

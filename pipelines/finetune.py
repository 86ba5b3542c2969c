"""The whole training: corpus, experts, every stage of the recipe, evaluation, gate, registration, report.

What a recipe describes is made; what it does not describe is asked for by URI. So a person sees only parameters that
have an effect: three forms of one pipeline, one function each.
"""

from collections.abc import Sequence

from kfp import dsl
from kfp.dsl import PipelineTask
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.pipeline_channel import PipelineChannel

from components.fit_experts import fit_experts
from components.prepare import prepare
from components.resolve import resolve
from pipelines.judge import Outputs
from pipelines.launched import launched
from pipelines.place import Place
from pipelines.trained import Data, given, train_and_judge
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
    if place.launcher == "jobs":
        return launched(recipe, names, name=NAME, place=place)
    if recipe.corpus is None:
        return _on_given_data(recipe, names, place)
    if first is not None or recipe.model.vocab_size is None:
        return _from_checkpoint(recipe, names, place)
    return _from_nothing(recipe, names, place)


def _from_nothing(resolved: Recipe, stages: Sequence[str], place: Place) -> BaseComponent:
    @dsl.pipeline(name=NAME)
    def pipeline(
        overrides: str = "",
        launcher: str = "local",
        workers: int = 0,
        gpus: int = resolved.resources.gpus,
        strategy: str = "",
        checkpoints: str = "",
        recipe: str = resolved.resolved_json(),
    ) -> Outputs:
        """Train VILA-M3 and its experts on phantoms from nothing, measure it, and release it through the gate.

        Args:
            overrides: TOML that replaces values of the recipe, such as: stages.stage4_expert.learning_rate = 1e-5
            launcher: local: one process | ray: a process for each accelerator of the pod, restarted when one is lost.
            workers: With ray: number of processes; 0 for the stage's devices.
            gpus: Accelerators of a pod that trains.
            strategy: With ray: ddp, zero1, zero2, zero3 or fsdp2; empty for what the stage says.
            checkpoints: With ray: s3://bucket/prefix of the state a new pod goes on from; empty keeps it in the pod.
            recipe: Resolved recipe, one JSON text. Its stages and resources are those this was compiled with.
        """
        how = {"launcher": launcher, "workers": workers, "strategy": strategy, "checkpoints": checkpoints}
        settled = place.resolving(resolve(recipe=recipe, overrides=overrides), looks=False)
        corpus, experts = _phantoms(settled, place)
        data = Data(settled=settled, corpus=corpus, experts=experts, base=None)
        return train_and_judge(stages, data, place=place, how=how, gpus=gpus)

    return pipeline


def _from_checkpoint(resolved: Recipe, stages: Sequence[str], place: Place) -> BaseComponent:
    @dsl.pipeline(name=NAME)
    def pipeline(  # noqa: PLR0913, PLR0917 - the form that a person fills in
        base_checkpoint: str,
        overrides: str = "",
        launcher: str = "local",
        workers: int = 0,
        gpus: int = resolved.resources.gpus,
        strategy: str = "",
        checkpoints: str = "",
        recipe: str = resolved.resolved_json(),
    ) -> Outputs:
        """Train VILA-M3 on phantoms from a checkpoint, measure it, and release it through the gate.

        Args:
            base_checkpoint: URI of the checkpoint to start from, in the published three-folder layout.
            overrides: TOML that replaces values of the recipe, such as: stages.stage4_expert.learning_rate = 1e-5
            launcher: local: one process | ray: a process for each accelerator of the pod, restarted when one is lost.
            workers: With ray: number of processes; 0 for the stage's devices.
            gpus: Accelerators of a pod that trains.
            strategy: With ray: ddp, zero1, zero2, zero3 or fsdp2; empty for what the stage says.
            checkpoints: With ray: s3://bucket/prefix of the state a new pod goes on from; empty keeps it in the pod.
            recipe: Resolved recipe, one JSON text. Its stages and resources are those this was compiled with.
        """
        how = {"launcher": launcher, "workers": workers, "strategy": strategy, "checkpoints": checkpoints}
        settled = place.resolving(resolve(recipe=recipe, overrides=overrides, base=base_checkpoint))
        corpus, experts = _phantoms(settled, place)
        base = dsl.importer(artifact_uri=base_checkpoint, artifact_class=dsl.Model).output
        data = Data(settled=settled, corpus=corpus, experts=experts, base=base)
        return train_and_judge(stages, data, place=place, how=how, gpus=gpus)

    return pipeline


def _on_given_data(resolved: Recipe, stages: Sequence[str], place: Place) -> BaseComponent:
    @dsl.pipeline(name=NAME)
    def pipeline(  # noqa: PLR0913, PLR0917 - the form that a person fills in
        base_checkpoint: str,
        corpus: str,
        experts: str,
        corpus_digest: str = "",
        overrides: str = "",
        launcher: str = "local",
        workers: int = 0,
        gpus: int = resolved.resources.gpus,
        strategy: str = "",
        checkpoints: str = "",
        recipe: str = resolved.resolved_json(),
    ) -> Outputs:
        """Train VILA-M3 on given data from a checkpoint, measure it, and release it through the gate.

        Args:
            base_checkpoint: URI of the checkpoint to start from, in the published three-folder layout.
            corpus: URI of a prepared corpus.
            experts: URI of a directory of expert bundles.
            corpus_digest: Which corpus is meant, as corpus.json states it; empty for whichever is there.
            overrides: TOML that replaces values of the recipe, such as: stages.stage4_expert.learning_rate = 1e-5
            launcher: local: one process | ray: a process for each accelerator of the pod, restarted when one is lost.
            workers: With ray: number of processes; 0 for the stage's devices.
            gpus: Accelerators of a pod that trains.
            strategy: With ray: ddp, zero1, zero2, zero3 or fsdp2; empty for what the stage says.
            checkpoints: With ray: s3://bucket/prefix of the state a new pod goes on from; empty keeps it in the pod.
            recipe: Resolved recipe, one JSON text. Its stages and resources are those this was compiled with.
        """
        how = {"launcher": launcher, "workers": workers, "strategy": strategy, "checkpoints": checkpoints}
        places = {"corpus": corpus, "base": base_checkpoint, "experts": experts}
        settled = resolve(recipe=recipe, overrides=overrides, corpus_digest=corpus_digest, **places)
        data = given(place.resolving(settled), **places)
        return train_and_judge(stages, data, place=place, how=how, gpus=gpus)

    return pipeline


def _phantoms(settled: PipelineTask, place: Place) -> tuple[PipelineChannel, PipelineChannel]:
    recipe = settled.outputs["recipe"]
    corpus = place.light(prepare(recipe=recipe)).outputs["corpus"]
    experts = place.heavy(fit_experts(recipe=recipe, corpus=corpus)).outputs["experts"]
    return corpus, experts

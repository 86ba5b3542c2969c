"""Expert-guided tuning alone: stage 4 again on a corpus and with experts that exist."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.resolve import resolve
from pipelines.judge import Outputs
from pipelines.launched import launched
from pipelines.place import Place
from pipelines.trained import given, train_and_judge
from vilam3.recipe import Recipe

NAME = "vilam3-retrain"
STAGE = "stage4_expert"


def retrain(resolved: Recipe, *, place: Place) -> BaseComponent:
    """The pipeline of a recipe that has a stage 4; its resources are fixed when this is compiled."""
    resolved.stage(STAGE)
    if place.launcher == "jobs":
        return launched(resolved, [STAGE], name=NAME, place=place)

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
        """Tune a stage-3 checkpoint of VILA-M3 with its experts, measure it, and release it through the gate.

        Args:
            base_checkpoint: URI of the stage-3 checkpoint, in the published three-folder layout.
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
        return train_and_judge([STAGE], given(place.resolving(settled), **places), place=place, how=how, gpus=gpus)

    return pipeline

"""Expert-guided tuning alone: stage 4 again on a corpus and with experts that exist."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.train_stage import train_stage
from pipelines.judge import Outputs, judge
from pipelines.launched import launched
from pipelines.place import Place
from vilam3.recipe import Recipe

NAME = "vilam3-retrain"
STAGE = "stage4_expert"


def retrain(resolved: Recipe, *, place: Place) -> BaseComponent:
    """The pipeline of a recipe that has a stage 4; its resources are fixed when this is compiled."""
    resolved.stage(STAGE)
    if place.launcher == "rayjob":
        return launched(resolved, [STAGE], name=NAME, place=place)

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
        """Tune a stage-3 checkpoint of VILA-M3 with its experts, measure it, and release it through the gate.

        Args:
            base_checkpoint: URI of the stage-3 checkpoint, in the published three-folder layout.
            corpus: URI of a prepared corpus.
            experts: URI of a directory of expert bundles.
            recipe: Resolved recipe, one JSON text. Its resources are those this was compiled with.
            launcher: local: one process | ray: a process for each accelerator of the pod, restarted when one is lost.
            workers: With ray: number of processes; empty for the stage's devices.
            strategy: With ray: ddp, zero1, zero2, zero3 or fsdp2; empty for what the stage says.
            checkpoints: With ray: s3://bucket/prefix of the state a new pod goes on from; empty keeps it in the pod.
        """
        base = dsl.importer(artifact_uri=base_checkpoint, artifact_class=dsl.Model).output
        data = dsl.importer(artifact_uri=corpus, artifact_class=dsl.Dataset).output
        bundles = dsl.importer(artifact_uri=experts, artifact_class=dsl.Model).output
        how = {"launcher": launcher, "workers": workers, "strategy": strategy, "checkpoints": checkpoints}
        trained = place.heavy(train_stage(recipe=recipe, stage=STAGE, corpus=data, base=base, **how), name=STAGE)
        return judge(recipe, corpus=data, experts=bundles, checkpoint=trained.outputs["checkpoint"], place=place)

    return pipeline

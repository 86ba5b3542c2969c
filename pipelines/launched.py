"""Training by jobs: a step that launches is a cheap pod, and each stage gets the machines it needs for itself.

Places are URIs all the way: KFP brings every artifact that a step takes to its pod, and these pods need none of it. Nor
does it take an artifact that a step left outside its own folder of the store. What later steps take becomes an artifact
for them.
"""

from collections.abc import Sequence

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.launch_stage import launch_stage
from components.resolve import resolve
from pipelines.judge import Outputs, judge
from pipelines.place import Place
from vilam3.recipe import Recipe


def launched(resolved: Recipe, stages: Sequence[str], *, name: str, place: Place) -> BaseComponent:
    """The pipeline of these stages of a recipe, under this name; its resources are fixed when this is compiled."""

    @dsl.pipeline(name=name)
    def pipeline(  # noqa: PLR0913, PLR0917 - the form that a person fills in
        base_checkpoint: str,
        corpus: str,
        experts: str,
        corpus_digest: str = "",
        overrides: str = "",
        workers: int = 0,
        strategy: str = "",
        checkpoints: str = "",
        recipe: str = resolved.resolved_json(),
    ) -> Outputs:
        """Train VILA-M3 by jobs of the cluster, measure it, and release it through the gate.

        Args:
            base_checkpoint: s3:// URI of the checkpoint to start from, in the published three-folder layout.
            corpus: s3:// URI of a prepared corpus.
            experts: URI of a directory of expert bundles.
            corpus_digest: Which corpus is meant, as corpus.json states it; empty for whichever is there.
            overrides: TOML that replaces values of the recipe, such as: stages.stage4_expert.learning_rate = 1e-5
            workers: Processes, one for each accelerator; 0 for the stage's devices.
            strategy: ddp, zero1, zero2, zero3 or fsdp2; empty for what the stage says.
            checkpoints: s3://bucket/prefix of state and result; empty for that of the installation.
            recipe: Resolved recipe, one JSON text. Its stages and resources are those this was compiled with.
        """
        places = {"corpus": corpus, "base": base_checkpoint, "experts": experts}
        settled = resolve(recipe=recipe, overrides=overrides, corpus_digest=corpus_digest, **places)
        found, base = place.resolving(settled).outputs, base_checkpoint
        how = {"workers": workers, "strategy": strategy, "checkpoints": checkpoints, "contents": found["contents"]}
        for stage in stages:
            task = launch_stage(recipe=found["recipe"], stage=stage, corpus=corpus, base=base, **how)
            trained = place.launching(task, name=stage)
            base = trained.outputs["model"]
        data = dsl.importer(artifact_uri=corpus, artifact_class=dsl.Dataset).output
        bundles = dsl.importer(artifact_uri=experts, artifact_class=dsl.Model).output
        model = dsl.importer(artifact_uri=trained.outputs["model"], artifact_class=dsl.Model).output
        kept = trained.outputs["kept"]
        return judge(settled, corpus=data, experts=bundles, checkpoint=model, kept=kept, place=place)

    return pipeline

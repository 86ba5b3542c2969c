"""The part that trains in the pods of its steps: stage after stage, and then what both pipelines end with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kfp import dsl
from kfp.dsl import PipelineTask
from kfp.dsl.pipeline_channel import PipelineChannel

from components.train_stage import train_stage
from pipelines.judge import Outputs, judge
from pipelines.place import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What is trained on.

    Attributes:
        settled: The step that resolved the recipe.
        corpus: A prepared corpus.
        experts: Directory of expert bundles.
        base: Checkpoint to start from; None for nothing.
    """

    settled: PipelineTask
    corpus: PipelineChannel
    experts: PipelineChannel
    base: PipelineChannel | None


def given(settled: PipelineTask, *, corpus: str, base: str, experts: str) -> Data:
    """Data that a person gave the places of."""
    return Data(
        settled=settled,
        corpus=dsl.importer(artifact_uri=corpus, artifact_class=dsl.Dataset).output,
        experts=dsl.importer(artifact_uri=experts, artifact_class=dsl.Model).output,
        base=dsl.importer(artifact_uri=base, artifact_class=dsl.Model).output,
    )


def train_and_judge(
    stages: Sequence[str], data: Data, *, place: Place, how: Mapping[str, object], gpus: int
) -> Outputs:
    """Train the stages one after the other and judge the last.

    Args:
        stages: Their names, in order.
        data: What they are trained on.
        place: Where the steps run.
        how: Parameters of the pipeline that say who trains.
        gpus: Accelerators of a pod that trains.
    """
    settled, checkpoint = data.settled.outputs, data.base
    common = {"recipe": settled["recipe"], "contents": settled["contents"], "corpus": data.corpus}
    for stage in stages:
        start = {} if checkpoint is None else {"base": checkpoint}
        trained = place.heavy(train_stage(stage=stage, **common, **start, **how), name=stage, gpus=gpus)
        checkpoint = trained.outputs["checkpoint"]
    return judge(data.settled, corpus=data.corpus, experts=data.experts, checkpoint=checkpoint, place=place)

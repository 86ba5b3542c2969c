"""Which pipelines are kept, and how to write them again on purpose: ``python -m tests.golden.pipelines.compiled``."""

from collections.abc import Mapping
from pathlib import Path

from kfp.dsl.base_component import BaseComponent

from pipelines.finetune import finetune
from pipelines.place import Place
from pipelines.retrain import retrain
from pipelines.submit import write_yaml
from vilam3.recipe import load

HERE = Path(__file__).parent


def pipelines() -> Mapping[str, BaseComponent]:
    """File name to pipeline."""
    recipe = load([HERE / "recipe.toml"])
    given = recipe.model_copy(update={"corpus": None})
    place = Place(resources=recipe.resources)
    launching = Place(resources=recipe.resources, launcher="jobs")
    return {
        "finetune.yaml": finetune(recipe, place=place),
        "finetune-from-checkpoint.yaml": finetune(recipe, place=place, first="stage4_expert"),
        "finetune-on-given-data.yaml": finetune(given, place=place, first="stage4_expert"),
        "retrain.yaml": retrain(given, place=place),
        "finetune-by-jobs.yaml": finetune(given, place=launching),
        "retrain-by-jobs.yaml": retrain(given, place=launching),
    }


if __name__ == "__main__":
    for name, pipeline in pipelines().items():
        write_yaml(pipeline, HERE / name)

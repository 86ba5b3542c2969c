"""The recipe that is measured: stage 4 as published, on a network small enough for a processor.

The share of the output head (7 %) and of the vision tower (8 %) in the operations of a step are those of the 8B model,
so that nobody gains by them what they would not gain there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.training.corpus import BALANCED
from vilam3.model.checkpoint import Loaded
from vilam3.recipe import Recipe
from vilam3.settings import Stage
from vilam3.train.batches import Feed
from vilam3.train.sources import make_feed, starting_network

STAGE = "stage1_align"  # the only one that starts from nothing; what it trains is stage 4's
MICRO_BATCH, STEP_SAMPLES = 16, 32  # of one device, as the published script has them
MODEL = {
    "preset": "tiny",
    "template": "llama_3",
    "vocab_size": 900,
    "llm": {
        "hidden_size": 256,
        "intermediate_size": 896,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
    },
    "vision": {
        "hidden_size": 64,
        "intermediate_size": 240,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 384,
    },
}
SETTINGS = {
    "trainable": ["vision_tower", "mm_projector", "llm"],
    "learning_rate": 2e-5,
    "steps": 4,
    "global_batch": STEP_SAMPLES,
    "micro_batch": MICRO_BATCH,
    "max_tokens": 4096,
    "packed_rows": 1,
    "gradient_checkpointing": True,
    "mixture": dict.fromkeys(BALANCED, 1),
    "checkpoint_every_steps": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Workload:
    """A network and its data."""

    recipe: Recipe
    loaded: Loaded
    feed: Feed

    @property
    def stage(self) -> Stage:
        """What is trained."""
        return self.recipe.stage(STAGE)


def recipe_of(**changes: object) -> Recipe:
    """With other settings of the stage."""
    return Recipe.model_validate(
        {"name": "bench", "seed": 17, "threads": 1, "model": MODEL, "stages": {STAGE: {**SETTINGS, **changes}}}
    )


def workload(corpus: Path, changes: Mapping[str, object] | None = None) -> Workload:
    """The network with fresh weights, and its batches."""
    recipe = recipe_of(**(changes or {}))
    loaded = starting_network(recipe, stage=STAGE, corpus=corpus, base=None)
    return Workload(recipe=recipe, loaded=loaded, feed=make_feed(recipe, stage=STAGE, corpus=corpus, loaded=loaded))

"""One process against two that share every batch, what they wait for data, and what saving after every step costs.

Both train the same steps with `ddp`, a core each. A run writes a checkpoint after every step, the published training
one after a hundred, so that here a stall weighs a hundred times as much.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from bench.record import Figure
from bench.training.corpus import write_corpus
from bench.training.runs import train
from bench.training.workload import recipe_of
from vilam3.errors import PrerequisiteError

STEPS = 4
LEAST_SCALING, MOST_STALL, MOST_WAIT = 1.7, 0.05, 0.02


def figures() -> list[Figure]:
    """Shares are of the time of all steps, the wait of whoever leads, the first step's data included."""
    if len(os.sched_getaffinity(0)) < 2:  # noqa: PLR2004 - a core each
        raise PrerequisiteError("train_workers: needs two cores; run it on a machine that has them")
    with tempfile.TemporaryDirectory(prefix="vilam3-bench-") as name:
        folder = Path(name)
        write_corpus(folder / "corpus")
        recipe = recipe_of(steps=STEPS)
        one, two = (
            train(recipe, corpus=folder / "corpus", out=folder / f"by-{workers}", workers=workers) for workers in (1, 2)
        )
    return [
        Figure(name="scaling_1_to_2", value=one["seconds"] / two["seconds"], unit="x", baseline=LEAST_SCALING),
        Figure(
            name="checkpoint_stall_fraction", value=_share(two, "checkpoint_stall_s"), unit="share", baseline=MOST_STALL
        ),
        Figure(name="data_wait_fraction", value=_share(two, "data_wait_s"), unit="share", baseline=MOST_WAIT),
        Figure(
            name="data_wait_fraction, one process", value=_share(one, "data_wait_s"), unit="share", baseline=MOST_WAIT
        ),
        Figure(name="seconds a step, one process", value=one["seconds"] / STEPS, unit="s"),
        Figure(name="seconds a step, two processes", value=two["seconds"] / STEPS, unit="s"),
    ]


def _share(told: dict[str, Any], name: str) -> float:
    return float(told["settings"][name]) / float(told["seconds"])

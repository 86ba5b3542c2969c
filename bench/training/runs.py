"""`vilam3 train` itself, in processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.training.workload import STAGE
from vilam3.errors import VilaM3Error
from vilam3.recipe import Recipe

ROOT = Path(__file__).parents[2]


def train(recipe: Recipe, *, corpus: Path | str, out: Path, workers: int, base: Path | None = None) -> dict[str, Any]:
    """Train the stage with this many processes, one thread each; the record of the finished stage.

    Raises:
        VilaM3Error: it did not finish.
    """
    written = out.parent / f"{out.name}.toml"
    written.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in _values(recipe).items()), encoding="utf-8")
    starter = ["torch.distributed.run", "--standalone", f"--nproc-per-node={workers}", "-m"]
    options = {"--recipe": written, "--stage": STAGE, "--corpus": corpus, "--out": out, "--launcher": "torchrun"}
    command = [sys.executable, "-m", *starter, "vilam3", "train", "--no-tracking"]
    command += [str(word) for option in options.items() for word in option]
    command += [] if base is None else ["--base", str(base)]
    finished = subprocess.run(  # noqa: S603 - our own program on our own temporary directory
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise VilaM3Error(f"vilam3 train with {workers} processes: {finished.stderr.strip()[-2000:]}")
    told: dict[str, Any] = json.loads((out / "stage.json").read_text(encoding="utf-8"))
    return told


def _values(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude_none=True)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(below)}" for key, below in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)

"""A model and its experts for the tests of the chart: those of a finished demo, or smaller ones, trained here."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydicom.data import get_testdata_file

from tests.chart import ROOT
from vilam3.model.checkpoint import fresh, save
from vilam3.model.config import VilaConfig
from vilam3.model.tokenizer import train_tiny

LATEST = ROOT / "runs" / "latest"
RECIPES = (ROOT / "pipelines" / "recipes" / "tiny.toml", Path(__file__).with_name("tiny.toml"))
STAGE = "stage1_align"
EXPERT_STEPS = {"vista3d": 120, "brats": 2, "cxr": 2}  # of the last two nothing is asked
QUESTION = "Is there a hepatic tumor?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Weights that answer.

    Attributes:
        model: Checkpoint.
        experts: Their bundles.
        answer: What one process with these weights says to `QUESTION` about `scan()`.
    """

    model: Path
    experts: Path
    answer: dict[str, Any]


def scan() -> Path:
    """A real CT slice."""
    return Path(str(get_testdata_file("CT_small.dcm", download=False)))


def trained(folder: Path) -> Trained:
    """The demo's where one has finished here; else trained in `folder`, which takes a minute or two."""
    summary = LATEST / "summary.json"
    if summary.is_file() and json.loads(summary.read_text("utf-8"))["recipe"] == "tiny":
        model, experts = LATEST / "model", LATEST / "experts"
    else:
        model, experts = _train(folder)
    return Trained(model=model, experts=experts, answer=_answer(model, experts, out=folder / "answer"))


def another(folder: Path) -> Path:
    """A checkpoint that has learned nothing, in `folder`."""
    torch.manual_seed(0)
    save(fresh(VilaConfig.preset("tiny"), train_tiny(["Is there a tumor? yes no"], vocab_size=600)), folder)
    return folder


def _train(folder: Path) -> tuple[Path, Path]:
    corpus, model, experts = folder / "corpus", folder / "model", folder / "experts"
    recipes = [word for file in RECIPES for word in ("--recipe", str(file))]
    _vilam3("prepare", *recipes, "--out", str(corpus))
    _vilam3("train", *recipes, "--stage", STAGE, "--corpus", str(corpus), "--out", str(model), "--no-tracking")
    for name, steps in EXPERT_STEPS.items():
        given = ["--expert", name, "--corpus", str(corpus), "--out", str(experts), "--steps", str(steps)]
        _vilam3("experts", "fit", *given)
    return model, experts


def _answer(model: Path, experts: Path, *, out: Path) -> dict[str, Any]:
    _vilam3("ask", f"--model={model}", f"--experts={experts}", f"--image={scan()}", f"--out={out}", QUESTION)
    told: dict[str, Any] = json.loads((out / "answer.json").read_text("utf-8"))
    return told


def _vilam3(*arguments: str) -> None:
    command = [sys.executable, "-m", "vilam3", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    assert ran.returncode == 0, ran.stderr

"""Runs a pipeline on this machine through kfp.local: each step a process, finished steps re-used, a killed run resumed.

Step results are found by what went into them: KFP's local cache, in a folder named for the program's own text, since
the cache itself would not notice another program of the same version.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import signal
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from kfp import local
from kfp.dsl.base_component import BaseComponent
from rich.console import Console

import components
import vilam3
from pipelines.display import Display, State
from vilam3.artifacts import write_text
from vilam3.errors import ArtifactError, PreemptedError
from vilam3.recipe import Recipe
from vilam3.workplace import (
    PARENT_VARIABLE,
    RUNS_VARIABLE,
    STATE_VARIABLE,
    parent_mark,
    run_folder,
    take_error,
)

LOG = "pipeline.log"
NOT_COMPUTING = {"cli", "__pycache__"}  # folders of the program whose text changes no result
CACHE_HIT = re.compile(r"^Task (\S+) cache hit")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
STAGE_TASK = re.compile(r"^train-stage(?:-(\d+))?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run that came to its end.

    Attributes:
        folder: Of the run.
        summary: As the report step gave it.
        page: The report.
        model: Directory of the released checkpoint.
        experts: Directory of its experts.
        corpus: Directory of the corpus.
        evaluation: Directory of the evaluation.
        states: What became of each step.
    """

    folder: Path
    summary: dict[str, Any]
    page: Path
    model: Path
    experts: Path
    corpus: Path
    evaluation: Path
    states: Mapping[str, State]


def run_here(
    pipeline: BaseComponent, recipe: Recipe, *, runs: Path, arguments: Mapping[str, str | int] | None = None
) -> Finished:
    """Run every step that has no result yet, showing progress on stderr.

    Args:
        pipeline: Made for this machine, see `pipelines.place`.
        recipe: It was made from.
        runs: Folder of all runs.
        arguments: Of the pipeline, besides the recipe.

    Raises:
        VilaM3Error: what a step raised.
        PreemptedError: this process was asked to end; the same command goes on.
    """
    with _environment(runs):
        folder = run_folder(recipe)
        os.environ[STATE_VARIABLE] = str(folder / "state" / program_digest()[:12])
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "recipe.json", json.dumps(json.loads(recipe.resolved_json()), indent=2) + "\n")
        _initialise(folder)
        display = Display(folder, step_names(recipe), console=Console(stderr=True))
        with display, _listening(display, recipe), _ended_with_children():
            outputs = _run(pipeline, {"recipe": recipe.resolved_json(), **(arguments or {})}, folder)
    return Finished(
        folder=folder,
        summary=json.loads(outputs["summary"]),
        states=display.states,
        **{name: Path(outputs[name].path) for name in ("page", "model", "experts", "corpus", "evaluation")},
    )


def step_names(recipe: Recipe) -> tuple[str, ...]:
    """The steps of a whole run, as the journal calls them."""
    return ("resolve", "prepare", "experts", *recipe.stage_names, "evaluate", "release", "report")


def program_digest() -> str:
    """SHA-256 over the text of everything that computes."""
    digest = hashlib.sha256()
    for package in (vilam3, components):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*")):
            if path.is_file() and not NOT_COMPUTING & set(path.relative_to(root).parts):
                digest.update(f"{path.relative_to(root.parent).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def plain(error: Exception) -> str:
    """What an error says, without a terminal's colours."""
    return COLOUR.sub("", str(error))


def _initialise(folder: Path) -> None:
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "kfp"),
        workspace_root=str(folder / "kfp-workspace"),
        enable_caching=True,
        cache_root=str(folder / "cache" / program_digest()[:12]),
    )


def _run(pipeline: BaseComponent, arguments: Mapping[str, str | int], folder: Path) -> dict[str, Any]:
    take_error(folder)  # of an earlier run
    with (folder / LOG).open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # our image has no "python" in its name, which kfp remarks on
        try:
            return dict(pipeline(**arguments).outputs)
        except RuntimeError as error:
            raise take_error(folder) or ArtifactError(
                f"{plain(error)} Why is at the end of {folder / LOG}; finished steps are kept"
            ) from error


@contextlib.contextmanager
def _environment(runs: Path) -> Iterator[None]:
    """What the steps inherit; put back afterwards."""
    before = dict(os.environ)
    os.environ[RUNS_VARIABLE] = str(runs.absolute())
    os.environ[PARENT_VARIABLE] = parent_mark()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _listening(display: Display, recipe: Recipe) -> Iterator[None]:
    """Tell the display which steps KFP takes from its cache."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if found := CACHE_HIT.match(record.getMessage()):
                display.reused(_step_of(found[1], recipe))

    root, listener = logging.getLogger(), Listener()
    level = root.level
    root.addHandler(listener)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(listener)
        root.setLevel(level)


def _step_of(task: str, recipe: Recipe) -> str:
    if found := STAGE_TASK.match(task):
        return recipe.stage_names[int(found[1] or 1) - 1]
    return {"fit-experts": "experts"}.get(task, task)


@contextlib.contextmanager
def _ended_with_children() -> Iterator[None]:
    """On SIGTERM end the running step too; it saves its state."""

    def end(_signal: int, _frame: FrameType | None) -> None:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()
        raise PreemptedError(
            "asked to end; finished steps and the last checkpoint are kept, run the same command to go on"
        )

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

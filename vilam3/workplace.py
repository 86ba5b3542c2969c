"""Where a pipeline step works: a folder that outlives it, progress others can read, and the reason when it fails.

A run's folder follows from its recipe, so the step of a killed run finds what it had begun. Steps of one run exclude
each other, and a step ends with the process that started it, so that an orphan never works beside its successor.
Knows no KFP.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from vilam3 import errors
from vilam3.artifacts import whole_directory, write_json
from vilam3.errors import VilaM3Error
from vilam3.progress import Progress, reporting
from vilam3.recipe import Recipe
from vilam3.train.record import STAGE_FILE, StageResult, read_stage

RUNS_VARIABLE = "VILAM3_RUNS"  # where runs are written
STATE_VARIABLE = "VILAM3_STATE"  # where a step keeps what it goes on with when it is run again
PARENT_VARIABLE = "VILAM3_PARENT"  # process id and start time of the process the steps belong to
DEFAULT_RUNS = Path("runs")
PROGRESS = "progress.json"
JOURNAL = "journal.jsonl"
ERROR = "error.json"
LINEAGE = "lineage"  # within a checkpoint: the record of every stage that led to it
WATCH_EVERY_S = 0.5
GRACE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Workplace:
    """What a step has at hand.

    Attributes:
        folder: Of the run.
        state: What is left here is found when the step is run again.
        runs: Of all runs, where the tracking store is.
        report: Takes the step's progress.
    """

    folder: Path
    state: Path
    runs: Path
    report: Progress

    @contextlib.contextmanager
    def reporting(self, part: str) -> Iterator[Progress]:
        """Progress of a part of the step that has a name of its own."""
        with reporting(part, file=self.folder / PROGRESS) as report:
            report(0, 1)
            yield report


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of the journal: a step that was finished, and how long it took."""

    step: str
    seconds: float


def runs_folder() -> Path:
    """Where runs are written, as the environment says."""
    return Path(os.environ.get(RUNS_VARIABLE) or DEFAULT_RUNS).absolute()


def run_folder(recipe: Recipe) -> Path:
    """The folder of the run that this recipe makes."""
    return runs_folder() / f"{recipe.name}-{recipe.digest[:12]}"


@contextlib.contextmanager
def working(step: str, recipe: Recipe) -> Iterator[Workplace]:
    """Work on a step; alone in the run, and no longer than whoever started it.

    Raises:
        VilaM3Error: whatever the work raises, after its reason was left for the starter to read.
    """
    folder = run_folder(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    _end_with_parent()
    state = Path(os.environ.get(STATE_VARIABLE) or folder / "state")
    with _alone(folder), reporting(step, file=folder / PROGRESS) as report:
        started = time.monotonic()
        report(0, 1)
        try:
            yield Workplace(folder=folder, state=state, runs=runs_folder(), report=report)
        except VilaM3Error as error:
            write_json(folder / ERROR, {"step": step, "kind": type(error).__name__, "message": str(error)})
            raise
        _note(folder, Entry(step=step, seconds=round(time.monotonic() - started, 3)))


def journal(folder: Path) -> list[Entry]:
    """Finished steps, oldest first; a line cut short by a kill is passed over."""
    path = folder / JOURNAL
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError, TypeError):
            entries.append(Entry(**json.loads(line)))
    return entries


def take_error(folder: Path) -> VilaM3Error | None:
    """Why a step of this run failed, as the error it raised; removed once read."""
    path = folder / ERROR
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
    except (OSError, ValueError):
        return None
    kind = getattr(errors, str(told.get("kind")), VilaM3Error)
    return kind(str(told.get("message")))


def hand_over(source: Path, to: Path, *, base: Path | None = None, without: str = "") -> None:
    """Put a checkpoint where a later step looks for it, with the records of the stages that led to it.

    Args:
        source: A saved checkpoint.
        to: Directory to create; shares the weights' files where the file system can.
        base: Checkpoint that `source` comes from; its records are taken over.
        without: Name of a folder to leave out.
    """
    with whole_directory(to) as partial:
        leave_out = shutil.ignore_patterns(LINEAGE, *([without] if without else []))
        shutil.copytree(source, partial, copy_function=_link, ignore=leave_out, dirs_exist_ok=True)
        for origin in (base, source):
            if origin is not None and (origin / LINEAGE).is_dir():
                shutil.copytree(origin / LINEAGE, partial / LINEAGE, dirs_exist_ok=True)
        if (source / STAGE_FILE).is_file():
            own = partial / LINEAGE / read_stage(source).name
            own.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / STAGE_FILE, own / STAGE_FILE)


def lineage(checkpoint: Path) -> list[StageResult]:
    """Records of the stages that led to a checkpoint, first one first.

    Raises:
        CheckpointError: one is damaged.
    """
    found = [read_stage(path.parent) for path in (checkpoint / LINEAGE).glob(f"*/{STAGE_FILE}")]
    return sorted(found, key=lambda stage: stage.name)


def parent_mark() -> str:
    """This process as `PARENT_VARIABLE` names it; the start time tells it from a later one of the same id."""
    return f"{os.getpid()}:{psutil.Process().create_time()}"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other step works in `folder`; the lock goes with the process, however it ends."""
    with (folder / ".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _end_with_parent() -> None:
    mark = os.environ.get(PARENT_VARIABLE, "")
    if mark:
        threading.Thread(target=_watch, args=(mark,), name="watch-parent", daemon=True).start()


def _watch(mark: str) -> None:
    while _is_alive(mark):
        time.sleep(WATCH_EVERY_S)
    os.kill(os.getpid(), signal.SIGTERM)  # long work saves its state and ends
    time.sleep(GRACE_S)
    os._exit(errors.PreemptedError.exit_code)


def _is_alive(mark: str) -> bool:
    pid, _, started = mark.partition(":")
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(started)) < 1
    except psutil.NoSuchProcess:
        return False


def _note(folder: Path, entry: Entry) -> None:
    with (folder / JOURNAL).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"step": entry.step, "seconds": entry.seconds}) + "\n")


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target

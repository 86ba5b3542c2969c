"""What an intake test needs: a corpus and a base as training leaves them, an event, and a starter with behaviour."""

import json
import threading
from pathlib import Path

from vilam3.errors import EngineError
from vilam3.intake.event import Digests, Event, Places, Run, Starts
from vilam3.intake.intake import Intake, Terms
from vilam3.intake.rules import Rules
from vilam3.intake.turn import Times
from vilam3.objects import FolderStore, ObjectStore
from vilam3.recipe import load

PIPELINE, STAGE = "vilam3-retrain", "stage4_expert"
TINY = Path(__file__).parents[3] / "pipelines" / "recipes" / "tiny.toml"
QUICK = Times(lease_s=2.0, settle_s=0.3, patience_s=30.0)
SAMPLES = dict.fromkeys(load([TINY]).stage(STAGE).mixture, 100)


def write_corpus(folder: Path, *, digest: str = "d1") -> Path:
    """A corpus as far as the intake reads it: its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.json").write_text(json.dumps({"digest": digest, "samples": SAMPLES}))
    return folder


def write_base(folder: Path, *, weights: str = "w1") -> Path:
    """A checkpoint as far as the intake reads it: the record of its digests."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "digests.json").write_text(json.dumps({"llm/model.safetensors": weights}))
    return folder


def event(place: Path, *, corpus: str = "corpus", base: str = "base") -> Event:
    """Somebody asks for a run on what lies below `place`."""
    places = Places(
        corpus=str(write_corpus(place / corpus)) if not (place / corpus).exists() else str(place / corpus),
        base_checkpoint=str(write_base(place / base)) if not (place / base).exists() else str(place / base),
        experts=str(place / "experts"),
    )
    recipe = load([TINY]).resolved_json()
    return Event(pipeline=PIPELINE, stages=(STAGE,), recipe=recipe, places=places, trigger="person")


class Starter:
    """Keeps runs as a server would: it does not mind two of one name. It may fail before or after it made one."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.runs: list[Run] = []
        self.events: list[Event] = []
        self.fails_before = self.fails_after = 0
        self._lock = threading.Lock()

    def find(self, name: str) -> Run | None:
        """The first of that name."""
        return next((run for run in self.runs if run.name == name), None)

    def start(self, name: str, event: Event, digests: Digests) -> Run:
        """One more."""
        assert digests.data
        if self.fails_before:
            self.fails_before -= 1
            raise EngineError("server: out of reach")
        with self._lock:
            run = Run(id=f"id-{len(self.runs)}", name=name)
            self.runs.append(run)
            self.events.append(event)
        if self.fails_after:
            self.fails_after -= 1
            raise EngineError("server: gone before it answered")
        return run

    def end(self, name: str, *, succeeded: bool) -> None:
        """A run comes to its end."""
        told = {"state": "succeeded" if succeeded else "failed"}
        self.runs = [run.model_copy(update=told) if run.name == name else run for run in self.runs]


def intake(
    root: Path, starter: Starts, *, rules: Rules | None = None, times: Times = QUICK, store: ObjectStore | None = None
) -> Intake:
    """An intake that keeps its records below `root`."""
    terms = Terms(rules=rules or Rules(), times=times)
    return Intake(store or FolderStore(root / "records"), starter, terms=terms)

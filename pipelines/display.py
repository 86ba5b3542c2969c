"""Shows a run while it runs: every step, what it does now, its loss and the time left. Reads files, knows no KFP."""

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from vilam3.progress import format_seconds, read
from vilam3.workplace import PROGRESS, journal

EVERY_S = 0.25
PLAIN_EVERY_S = 10.0
LABEL_WIDTH = 18

State = Literal["waiting", "running", "finished", "re-used"]


class Display:
    """A live list on a terminal, plain lines elsewhere; use as a context manager around the run."""

    def __init__(self, folder: Path, steps: Sequence[str], *, console: Console) -> None:
        """Watch the run in `folder`, of these steps."""
        self._folder = folder
        self._console = console
        self._begun = len(journal(folder))
        self._states: dict[str, State] = dict.fromkeys(steps, "waiting")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="display", daemon=True)
        self._last_plain = ""

    def __enter__(self) -> Self:
        """Begin to show."""
        (self._folder / PROGRESS).unlink(missing_ok=True)  # of the run before
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show the last state and stop."""
        self._look()
        if kind is None:
            for step, state in self._states.items():
                self._states[step] = "re-used" if state in {"waiting", "running"} else state
        self._stop.set()
        self._thread.join()

    @property
    def states(self) -> dict[str, State]:
        """What became of each step."""
        self._look()
        return dict(self._states)

    def started(self, step: str) -> None:
        """A step begins."""
        self._states[step] = "running"

    def reused(self, step: str) -> None:
        """A step's earlier result was taken."""
        self._states[step] = "re-used"

    def _watch(self) -> None:
        if not self._console.is_terminal:
            self._print_until_stopped()
            return
        with Live(
            self._lines(), console=self._console, refresh_per_second=4, redirect_stdout=False, redirect_stderr=False
        ) as live:
            while not self._stop.wait(EVERY_S):
                live.update(self._lines())
            live.update(self._lines())

    def _print_until_stopped(self) -> None:
        told: dict[str, State] = {}
        while True:
            is_over = self._stop.wait(PLAIN_EVERY_S if told else EVERY_S)
            self._look()
            for step, state in self._states.items():
                if told.get(step) != state and state in {"finished", "re-used"}:
                    self._console.print(self._line(step, state), highlight=False)
                told[step] = state
            if is_over:
                return
            self._print_reading()

    def _print_reading(self) -> None:
        reading = read(self._folder / PROGRESS)
        line = reading.line() if reading and 0 < reading.step < reading.steps else ""
        if line and line != self._last_plain:
            self._console.print(line, highlight=False)
        self._last_plain = line

    def _look(self) -> None:
        for entry in journal(self._folder)[self._begun :]:
            if self._states.get(entry.step) != "re-used":
                self._states[entry.step] = "finished"

    def _lines(self) -> Text:
        self._look()
        return Text("\n").join(Text(self._line(step, state)) for step, state in self._states.items())

    def _line(self, step: str, state: State) -> str:
        seconds = next((entry.seconds for entry in reversed(journal(self._folder)) if entry.step == step), None)
        took = "" if seconds is None else format_seconds(seconds)
        match state:
            case "finished":
                return f"{step:<{LABEL_WIDTH}} done in {took}"
            case "re-used":
                return f"{step:<{LABEL_WIDTH}} re-used, took {took} when it ran"
            case "running":
                reading = read(self._folder / PROGRESS)
                return reading.line() if reading else f"{step:<{LABEL_WIDTH}} starting"
            case "waiting":
                return f"{step:<{LABEL_WIDTH}} ·"

"""How far a long step is: a live display on a terminal, plain lines elsewhere, and a small file others can read.

The work itself may run in another process: it writes the file (`Progress` with `file`), and whoever shows the whole
run reads it (`read`). Everything goes to stderr.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_EVERY_S = 5.0
FILE_EVERY_S = 0.5
BAR_WIDTH = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One reading; `loss` and `seconds_left` are None where unknown."""

    stage: str
    step: int
    steps: int
    loss: float | None = None
    seconds_left: float | None = None

    def line(self) -> str:
        """As one line for people."""
        share = self.step / self.steps if self.steps else 0.0
        bar = "━" * round(share * BAR_WIDTH)
        loss = "" if self.loss is None else f"  loss {self.loss:.4f}"
        left = "" if self.seconds_left is None else f"  {format_seconds(self.seconds_left)} left"
        return f"{self.stage:<18} {bar:<{BAR_WIDTH}} {self.step:>6}/{self.steps}{loss}{left}"


class Progress:
    """Reports one step; call it with step, steps and loss as often as you like, it thins out by itself."""

    def __init__(self, stage: str, *, live: Live | None, console: Console, file: Path | None = None) -> None:
        """Use `reporting` instead."""
        self._stage = stage
        self._live = live
        self._console = console
        self._file = file
        self._first: tuple[int, float] | None = None
        self._last_line_s = self._last_file_s = float("-inf")

    def __call__(self, step: int, steps: int, loss: float | None = None, seconds_left: float | None = None) -> None:
        """Take a reading; without `seconds_left` the time left is estimated from the readings so far."""
        now = time.monotonic()
        if seconds_left is None:
            seconds_left = self._estimate(step, steps, now)
        update = Update(stage=self._stage, step=step, steps=steps, loss=loss, seconds_left=seconds_left)
        is_last = step >= steps
        if self._live:
            self._live.update(Text(update.line()))
        elif is_last or now - self._last_line_s >= PLAIN_EVERY_S:
            self._last_line_s = now
            self._console.print(update.line(), highlight=False)
        if self._file and (is_last or now - self._last_file_s >= FILE_EVERY_S):
            self._last_file_s = now
            _write(self._file, update)

    def _estimate(self, step: int, steps: int, now: float) -> float | None:
        if self._first is None:
            self._first = (step, now)
        first_step, first_time = self._first
        if step <= first_step:
            return None
        return (now - first_time) / (step - first_step) * (steps - step)


@contextlib.contextmanager
def reporting(stage: str, *, file: Path | None = None, console: Console | None = None) -> Iterator[Progress]:
    """Show the progress of one step while the block runs.

    Args:
        stage: What is being done.
        file: Where to leave the newest reading for other processes.
        console: Where to show it; stderr by default.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield Progress(stage, live=None, console=console, file=file)
        return
    with Live(Text(f"{stage:<18} starting"), console=console, refresh_per_second=8) as live:
        yield Progress(stage, live=live, console=console, file=file)


def read(file: Path) -> Update | None:
    """The newest reading another process left, or None."""
    try:
        return Update(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def format_seconds(seconds: float) -> str:
    """``1:05`` or ``2:00:00``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _write(file: Path, update: Update) -> None:
    """Replace the file in one step; it is news, not data, so it is not flushed to disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    partial.write_text(json.dumps(asdict(update)), encoding="utf-8")
    partial.replace(file)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on a terminal what takes long."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield

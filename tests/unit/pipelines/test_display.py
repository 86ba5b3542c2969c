"""What a run shows while it runs."""

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from pipelines import display
from pipelines.display import Display
from vilam3.workplace import JOURNAL, PROGRESS

STEPS = ("prepare", "stage1_align", "report")


def _note(folder: Path, step: str, seconds: float) -> None:
    with (folder / JOURNAL).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"step": step, "seconds": seconds}) + "\n")


def _read(folder: Path, **values: object) -> None:
    text = json.dumps({"stage": "stage1_align", "step": 5, "steps": 10, "loss": 1.5, "seconds_left": 65.0, **values})
    (folder / PROGRESS).write_text(text, encoding="utf-8")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "EVERY_S", 0.01)
    monkeypatch.setattr(display, "PLAIN_EVERY_S", 0.01)


@pytest.mark.usefixtures("quick")
def test_without_a_terminal_finished_steps_and_progress_are_lines(tmp_path: Path) -> None:
    told = io.StringIO()
    with Display(tmp_path, STEPS, console=Console(file=told, width=120)) as shown:
        shown.started("stage1_align")
        _read(tmp_path)
        _note(tmp_path, "prepare", 12.0)
        _wait_for(told, "0:12")
        _wait_for(told, "loss 1.5000  1:05 left")
    assert "prepare            done in 0:12" in told.getvalue()


@pytest.mark.usefixtures("quick")
def test_a_step_that_did_not_run_was_taken_from_an_earlier_run(tmp_path: Path) -> None:
    _note(tmp_path, "prepare", 12.0)
    told = io.StringIO()
    with Display(tmp_path, STEPS, console=Console(file=told, width=120)) as shown:
        shown.reused("prepare")
        _note(tmp_path, "stage1_align", 3.0)
        _note(tmp_path, "report", 1.0)
    assert shown.states == {"prepare": "re-used", "stage1_align": "finished", "report": "finished"}
    assert "prepare            re-used, took 0:12 when it ran" in told.getvalue()


@pytest.mark.usefixtures("quick")
def test_a_terminal_shows_every_step_at_once(tmp_path: Path) -> None:
    told = io.StringIO()
    with Display(tmp_path, STEPS, console=Console(file=told, width=120, force_terminal=True)) as shown:
        shown.started("stage1_align")
        _read(tmp_path)
        _wait_for(told, "1:05 left")
    assert "report" in told.getvalue()


@pytest.mark.usefixtures("quick")
def test_a_run_that_fails_reuses_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="broken"),
        Display(tmp_path, STEPS, console=Console(file=io.StringIO())) as shown,
    ):
        raise ValueError("broken")
    assert set(shown.states.values()) == {"waiting"}


def _wait_for(told: io.StringIO, text: str) -> None:
    deadline = time.monotonic() + 5
    while text not in told.getvalue():
        assert time.monotonic() < deadline, told.getvalue()
        time.sleep(0.01)

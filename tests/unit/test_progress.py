"""Progress: what is shown where, how often, and what other processes can read."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from vilam3 import progress
from vilam3.progress import Update, format_seconds, read, reporting


def test_plain_lines_are_thinned_out_and_the_last_one_always_comes() -> None:
    shown = io.StringIO()
    with reporting("stage1_align", console=Console(file=shown, width=100)) as report:
        for step in range(1, 101):
            report(step, 100, 1.0 / step)
    lines = shown.getvalue().splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"stage1_align\s+━+\s+100/100  loss 0\.0100  0:00 left", lines[-1])


def test_a_terminal_gets_one_live_line() -> None:
    shown = io.StringIO()
    with reporting("stage1_align", console=Console(file=shown, width=100, force_terminal=True)) as report:
        report(1, 2, 0.5)
        report(2, 2, 0.25)
    assert "loss 0.2500" in shown.getvalue()
    assert "\x1b[" in shown.getvalue()


def test_another_process_reads_the_newest_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FILE_EVERY_S", 0.0)
    file = tmp_path / "run" / "progress.json"
    assert read(file) is None
    with reporting("stage4_expert", file=file, console=Console(file=io.StringIO())) as report:
        report(3, 10, 0.5, 7.0)
        assert read(file) == Update(stage="stage4_expert", step=3, steps=10, loss=0.5, seconds_left=7.0)
        report(4, 10)
    found = read(file)
    assert found is not None
    assert (found.step, found.loss) == (4, None)
    assert [path.name for path in file.parent.iterdir()] == ["progress.json"]


def test_a_foreign_file_is_no_reading(tmp_path: Path) -> None:
    file = tmp_path / "progress.json"
    for text in ("", "[]", json.dumps({"stage": "x"}), json.dumps({"other": 1})):
        file.write_text(text)
        assert read(file) is None


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65.4, "1:05"), (7200, "2:00:00"), (-1, "0:00")])
def test_seconds_are_written_as_a_clock(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text

"""The demo's whole loop with real processes: killed and resumed, and run again from what is there."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vilam3.progress import read
from vilam3.workplace import PROGRESS, journal

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
MICRO = Path(__file__).with_name("micro.toml")
TIMES_AND_MEMORY = {"seconds", "seconds_total", "peak_rss_mb"}
WAIT_S = 300.0


def _command(work: Path) -> list[str]:
    return [sys.executable, "-m", "vilam3", "pipeline", "demo", "--recipe", str(MICRO), "--work", str(work)]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}


def _finish(work: Path) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(  # noqa: S603 - ourselves
        _command(work), cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def _kill_when(work: Path, is_time: Callable[[Path], bool]) -> None:
    """Start the demo and kill it outright, its steps not."""
    with subprocess.Popen(  # noqa: S603 - ourselves
        _command(work), cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + WAIT_S
        while not any(is_time(folder) for folder in work.glob("micro-*")):
            assert process.poll() is None, "the demo ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)


def _in_stage_4(folder: Path) -> bool:
    reading = read(folder / PROGRESS)
    return reading is not None and reading.stage == "stage4_expert" and reading.step > 7


def _fitting_experts(folder: Path) -> bool:
    return any(entry.step == "prepare" for entry in journal(folder))


def _summary(work: Path) -> Any:  # noqa: ANN401 - JSON
    return _timeless(json.loads((work / "latest" / "summary.json").read_text(encoding="utf-8")))


def _timeless(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES_AND_MEMORY}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed between steps, within a step and within a stage, and then finished."""
    work = tmp_path_factory.mktemp("killed")
    _kill_when(work, _fitting_experts)
    _kill_when(work, _in_stage_4)
    _finish(work)
    return work


def test_a_killed_run_goes_on_and_comes_to_the_same_summary(killed: Path, tmp_path: Path) -> None:
    _finish(tmp_path)
    assert _summary(killed) == _summary(tmp_path)


def test_a_second_run_takes_what_is_there_and_shows_it(killed: Path) -> None:
    before = _summary(killed)
    told = _finish(killed)
    assert "Re-used from an earlier run: resolve, prepare, experts, stage1_align, stage4_expert, evaluate, report." in (
        " ".join(told.stdout.split())
    )
    assert "stage4_expert      re-used" in told.stderr
    assert _summary(killed) == before


def test_everything_a_person_looks_for_is_under_latest(killed: Path) -> None:
    latest = killed / "latest"
    summary = json.loads((latest / "summary.json").read_text(encoding="utf-8"))
    assert {stage["name"] for stage in summary["stages"]} == {"stage1_align", "stage4_expert"}
    assert summary["model_version"] == 1
    assert summary["gate"]["passed"]
    assert summary["seconds_total"] > 0
    assert 100 < summary["peak_rss_mb"] < 6000
    assert "<svg" in (latest / "report.html").read_text(encoding="utf-8")
    for name in ("model", "experts", "corpus", "evaluation"):
        assert (latest / name).is_dir()
    answers = {path.parent.name for path in latest.glob("answers/*/answer.json")}
    assert answers == {"ct", "ct-organs", "mr", "mr-volume"}


def test_wrong_input_is_told_in_one_sentence(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(MICRO.read_text(encoding="utf-8").replace("seed = 3", "seeed = 3"), encoding="utf-8")
    done = subprocess.run(  # noqa: S603 - ourselves
        [
            sys.executable,
            "-m",
            "vilam3",
            "pipeline",
            "run",
            "--local",
            "--recipe",
            str(recipe),
            "--work",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean 'seed'?" in done.stderr


def test_a_step_that_fails_is_told_with_its_own_words(tmp_path: Path) -> None:
    """Not with KFP's: the step left its reason behind, and its exit code is the program's."""
    recipe = tmp_path / "recipe.toml"
    text = MICRO.read_text(encoding="utf-8").replace("mixture = { captions = 1 }", "mixture = { absent = 1 }")
    recipe.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "vilam3", "pipeline", "run", "--local", "--recipe", str(recipe)]
    done = subprocess.run(  # noqa: S603 - ourselves
        [*command, "--work", str(tmp_path / "runs")],
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "mixture.absent" in done.stderr.splitlines()[-1]

"""Where a step works: alone, no longer than its starter, and with its reason left behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from vilam3 import progress, workplace
from vilam3.errors import DataError, PreemptedError
from vilam3.recipe import Recipe, load
from vilam3.train.record import StageResult
from vilam3.workplace import Entry, working

TINY = Path(__file__).parents[2] / "pipelines" / "recipes" / "tiny.toml"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setenv(workplace.RUNS_VARIABLE, str(tmp_path / "runs"))
    monkeypatch.delenv(workplace.PARENT_VARIABLE, raising=False)
    return load([TINY])


def test_a_finished_step_is_in_the_journal_and_its_progress_can_be_read(recipe: Recipe) -> None:
    with working("prepare", recipe) as place:
        place.report(3, 4)
        reading = progress.read(place.folder / workplace.PROGRESS)
    assert reading is not None
    assert (reading.stage, reading.steps) == ("prepare", 1)  # the first reading; later ones are thinned out
    (entry,) = workplace.journal(place.folder)
    assert entry.step == "prepare"
    assert entry.seconds >= 0


def test_a_failed_step_leaves_its_reason_once(recipe: Recipe) -> None:
    with pytest.raises(DataError), working("prepare", recipe) as place:
        raise DataError("corpus.json: is damaged")
    assert workplace.journal(place.folder) == []
    told = workplace.take_error(place.folder)
    assert isinstance(told, DataError)
    assert str(told) == "corpus.json: is damaged"
    assert workplace.take_error(place.folder) is None


def test_a_journal_cut_short_by_a_kill_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    (tmp_path / workplace.JOURNAL).write_text('{"step": "prepare", "seconds": 1.5}\n{"step": "exp', encoding="utf-8")
    assert workplace.journal(tmp_path) == [Entry(step="prepare", seconds=1.5)]


def test_two_recipes_have_two_folders(recipe: Recipe) -> None:
    other = recipe.model_copy(update={"seed": 1})
    assert workplace.run_folder(recipe) != workplace.run_folder(other)
    assert workplace.run_folder(recipe).name.startswith("tiny-")


def test_a_checkpoint_carries_the_records_of_the_stages_before_it(tmp_path: Path) -> None:
    _stage(tmp_path / "one", "stage1_align")
    _stage(tmp_path / "two", "stage2_pretrain")
    workplace.hand_over(tmp_path / "one", tmp_path / "handed-1")
    workplace.hand_over(tmp_path / "two", tmp_path / "handed-2", base=tmp_path / "handed-1")
    workplace.hand_over(tmp_path / "handed-2", tmp_path / "best", base=tmp_path / "handed-2", without="checkpoints")
    assert [one.name for one in workplace.lineage(tmp_path / "best")] == ["stage1_align", "stage2_pretrain"]
    assert not (tmp_path / "best" / "checkpoints").exists()
    assert (tmp_path / "best" / "weights").samefile(tmp_path / "two" / "weights")


def test_a_step_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Its starter is killed outright, and the step still gets the chance to save its state."""
    step = textwrap.dedent(f"""
        import signal, sys, time
        from pathlib import Path
        from vilam3.recipe import load
        from vilam3.workplace import working
        def end(*_):
            Path({str(tmp_path / "saved")!r}).touch()
            sys.exit(75)
        signal.signal(signal.SIGTERM, end)
        with working("prepare", load([Path({str(TINY)!r})])):
            print("working", flush=True)
            time.sleep(60)
    """)
    starter = textwrap.dedent(f"""
        import os, subprocess, sys
        from vilam3 import workplace
        os.environ[workplace.PARENT_VARIABLE] = workplace.parent_mark()
        subprocess.run([sys.executable, "-c", {step!r}])
    """)
    environment = {**os.environ, workplace.RUNS_VARIABLE: str(tmp_path / "runs")}
    command = [sys.executable, "-c", starter]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:  # noqa: S603 - ourselves
        assert process.stdout is not None
        assert process.stdout.readline() == b"working\n"
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while not (tmp_path / "saved").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / "saved").exists()


def test_a_second_step_waits_for_the_first(recipe: Recipe) -> None:
    folder = workplace.run_folder(recipe)
    code = textwrap.dedent(f"""
        from pathlib import Path
        from vilam3.recipe import load
        from vilam3.workplace import working
        print("ready", flush=True)
        with working("second", load([Path({str(TINY)!r})])):
            pass
    """)
    with working("first", recipe):
        command = [sys.executable, "-c", code]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # noqa: S603 - ourselves
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        assert process.poll() is None
    assert process.wait(timeout=20) == 0
    process.stdout.close()
    assert [entry.step for entry in workplace.journal(folder)] == ["first", "second"]


def test_preemption_keeps_its_exit_code_over_the_process_border(recipe: Recipe) -> None:
    with pytest.raises(PreemptedError), working("stage1_align", recipe) as place:
        raise PreemptedError("asked to end")
    told = workplace.take_error(place.folder)
    assert told is not None
    assert told.exit_code == 75


def _stage(folder: Path, name: str) -> None:
    result = StageResult(
        name=name,
        recipe="tiny",
        steps=1,
        samples=1,
        seconds=1.0,
        final_loss=1.0,
        losses=(1.0,),
        inputs={},
        inputs_digest="",
        weights_digest="",
        settings={},
    )
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "weights").write_text(name, encoding="utf-8")
    (folder / "stage.json").write_text(json.dumps(result.to_json()), encoding="utf-8")

"""What decides whether a finished step is taken again, and how much memory a run held."""

import subprocess
import sys
from pathlib import Path

import pytest

import vilam3
from pipelines import here
from pipelines.memory import PeakMemory
from pipelines.server import free_port, served
from vilam3.errors import EngineError
from vilam3.recipe import load

TINY = Path(__file__).parents[3] / "pipelines" / "recipes" / "tiny.toml"
HELD_MB = 120


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small stand-in for the library's folder."""
    (tmp_path / "cli").mkdir()
    for name in ("__init__.py", "work.py", "facts.json", "cli/ask.py"):
        (tmp_path / name).write_text("1", encoding="utf-8")
    monkeypatch.setattr(vilam3, "__file__", str(tmp_path / "__init__.py"))
    return tmp_path


@pytest.mark.parametrize("changed", ["work.py", "facts.json"])
def test_another_program_takes_nothing_from_the_cache(program: Path, changed: str) -> None:
    before = here.program_digest()
    (program / changed).write_text("2", encoding="utf-8")
    assert here.program_digest() != before


def test_a_command_line_that_changed_computes_the_same(program: Path) -> None:
    before = here.program_digest()
    (program / "cli" / "ask.py").write_text("2", encoding="utf-8")
    assert here.program_digest() == before


def test_tasks_of_the_graph_are_steps_of_the_run() -> None:
    recipe = load([TINY])
    tasks = ("prepare", "fit-experts", "train-stage", "train-stage-4", "evaluate", "release", "report")
    named = [here._step_of(task, recipe) for task in tasks]
    assert named == ["prepare", "experts", "stage1_align", "stage4_expert", "evaluate", "release", "report"]
    assert set(named) <= set(here.step_names(recipe))


def test_an_error_is_told_without_colours() -> None:
    assert here.plain(RuntimeError("task \x1b[96m'x'\x1b[0m failed")) == "task 'x' failed"


def test_the_peak_counts_processes_that_were_started() -> None:
    code = f"held = bytearray({HELD_MB} * 1_000_000); print(len(held), flush=True); input()"
    with (
        PeakMemory() as memory,
        subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child,
    ):
        assert child.stdout is not None
        child.stdout.readline()
        memory.__exit__(None, None, None)  # a last look while the child holds it
        child.communicate(b"\n")
    assert memory.peak_mb > HELD_MB


def test_a_server_that_ends_at_once_says_where_its_words_are(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match=r"ended with code \d.*serve\.log"),
        served(tmp_path / "absent", experts=tmp_path, log=tmp_path / "serve.log"),
    ):
        pytest.fail("nothing is served")
    assert (tmp_path / "serve.log").read_text(encoding="utf-8")


def test_a_free_port_is_free() -> None:
    assert 1024 < free_port() < 65536

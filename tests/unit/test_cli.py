"""Rules of the command line: exit codes, absent leaves, and a `--help` that loads nothing heavy."""

import argparse
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from vilam3.cli import main as command_line
from vilam3.errors import DataError, EngineError, VilaM3Error

HEAVY = ("torch", "transformers", "monai", "mlflow", "ray", "kfp", "kserve", "SimpleITK", "pandas")


def _parser_running(error: BaseException | None) -> argparse.ArgumentParser:
    """A tree of one verb that raises `error` or is done."""

    def run(_: argparse.Namespace) -> None:
        if error is not None:
            raise error

    parser = argparse.ArgumentParser(prog="vilam3")
    parser.add_subparsers().add_parser("try").set_defaults(run=run)
    return parser


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (DataError("scan.dcm: not DICOM; give a DICOM file"), 2),
        (EngineError("the model server is out of reach; start it"), 1),
        (VilaM3Error("ours"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_the_exit_code_says_whose_fault_it_is(
    error: BaseException | None, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "build_parser", lambda: _parser_running(error))
    assert command_line.main(["try"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    if isinstance(error, VilaM3Error):
        assert printed.err == f"vilam3: {error}\n"


def test_an_absent_leaf_says_so_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(prog="vilam3")
    leaf = EntryPoint(name="serve", value="no_such_leaf.cli:register", group="vilam3.verbs")
    command_line._register_leaf(leaf, parser.add_subparsers())
    for words in ([], ["--model", "m"], ["--help"], ["x", "-y", "--", "z"]):
        arguments = parser.parse_args(["serve", *words])
        assert arguments.run(arguments) == 2
    told = capsys.readouterr().err.splitlines()[0] + "\n"
    assert told.count("\n") == 1
    assert "no_such_leaf is not installed here" in told


def test_an_unknown_verb_is_the_users_input(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["fly"])
    assert stopped.value.code == 2
    assert "fly" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    program = f"""
import sys
from vilam3.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
print("heavy:", [name for name in {HEAVY} if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603 - ourselves
    assert "Train, gate, serve and question" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "heavy: []", ran.stdout

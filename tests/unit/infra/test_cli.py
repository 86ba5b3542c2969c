"""What documents and the Makefile say of the program holds, and errors are told in its exit code."""

import re
import shlex
from pathlib import Path

import pytest

from infra.cluster.cli import build_parser, main
from infra.cluster.plan import LEVELS

ROOT = Path(__file__).parents[3]
CALL = re.compile(r"(?:\.venv/bin/|\$\(BIN\)/)?python -m infra\.cluster ([^#)\n`]+)")


def _calls() -> list[str]:
    documents = [ROOT / "Makefile", ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    found = [call for document in documents for call in CALL.findall(document.read_text("utf-8"))]
    return [*found, *CALL.findall(build_parser().format_help())]


@pytest.mark.parametrize("call", [call for call in _calls() if "$" not in call and "[" not in call])
def test_a_call_in_a_document_is_understood(call: str) -> None:
    build_parser().parse_args(shlex.split(call))


def test_the_documents_show_calls() -> None:
    assert len(_calls()) >= 5


def test_the_makefile_names_every_level() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    assert f"LEVEL={'|'.join(LEVELS)}" in text


def test_nothing_is_up_where_nothing_was_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path / "c"), "status"]) == 1
    assert capsys.readouterr().out == "no cluster\n"


def test_down_is_harmless_where_nothing_is_up(tmp_path: Path) -> None:
    assert main(["--root", str(tmp_path / "c"), "down"]) == 0


def test_the_kubeconfig_is_where_it_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path / "c"), "kubeconfig"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/c/kubeconfig\n"


def test_your_mistake_is_exit_code_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path / "c"), "tool", "heml"]) == 2
    assert "tool: tool heml: not among" in capsys.readouterr().err

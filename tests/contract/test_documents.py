"""What the documents say holds: their commands exist, their links lead somewhere, the generated ones are current."""

import argparse
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from tests.contract.commands import exit_code
from tests.contract.sizes import ROOT
from vilam3.cli import reference
from vilam3.cli.main import build_parser

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL_LANGUAGES = {"sh", "bash", "console", ""}
USAGE = re.compile(r"\[options\]|\s[A-Z]+$|\s[A-Z]+\s")  # a form to fill in: vilam3 train --recipe FILE [options]
HOLDS_ON_A_FRESH_CLONE = re.compile(r"^(runs|dist)/")


def _commands() -> list[tuple[str, str]]:
    """Every shell line of ours in the documents: file, and the line from ``vilam3`` or ``make`` on."""
    found = []
    for document in DOCUMENTS:
        for language, block in FENCE.findall(document.read_text("utf-8")):
            if language in SHELL_LANGUAGES:
                lines = block.replace("\\\n", " ").splitlines()
                found += [(document.name, command) for line in lines for command in _ours(line)]
    return found


def _ours(line: str) -> list[str]:
    """The commands of one shell line that are ours, without prompt, comment, environment, pipe and redirection."""
    line = re.sub(r"\s#\s.*$|^#.*$", "", line)
    parts = re.split(r"\s(?:&&|\|\|?|;|>|2>)\s", line.strip().removeprefix("$ ").removeprefix("example: "))
    bare = [re.sub(r"^(?:[A-Z_]+=\S+\s+)+", "", part.strip()).removeprefix(".venv/bin/") for part in parts]
    ours = [command.removesuffix(" &") for command in bare if re.match(r"(vilam3|make)(\s|$)", command)]
    return [command for command in ours if not USAGE.search(command)]


def test_the_documents_show_commands() -> None:
    assert len(_commands()) >= 10


@pytest.mark.parametrize(("document", "command"), _commands())
def test_a_command_in_a_document_exists(document: str, command: str) -> None:
    program, *words = shlex.split(command)
    if program == "make":
        verbs = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
        assert {word for word in words if "=" not in word} <= verbs, f"{document}: {command}"
        return
    assert exit_code(words) == 0, f"{document}: {command}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.relative_to(ROOT).as_posix())
def test_a_link_leads_somewhere(document: Path) -> None:
    text = document.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|(?:src|srcset)=\"([^\"]+)\"", text):
        path = target[0] or target[1]
        if "://" not in path and not HOLDS_ON_A_FRESH_CLONE.match(path):
            assert (document.parent / path).exists(), f"{document.name}: {path}"


def test_the_reference_of_the_command_line_is_current() -> None:
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == reference.render(build_parser()), "run make docs"


def test_every_library_we_ask_for_is_in_the_notices() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [*project["dependencies"], *(name for names in project["optional-dependencies"].values() for name in names)]
    names = {re.split(r"[^\w.-]", name)[0] for name in asked} - {"vilam3"}
    told = set(re.findall(r"[\w.-]*\w", (ROOT / "docs" / "third-party.md").read_text("utf-8")))
    assert names - told == set()


def test_every_verb_shows_an_example() -> None:
    lacking = [parser.prog for parser in _leaves() if "vilam3" not in (parser.epilog or "")]
    assert lacking == []


def _leaves() -> list[argparse.ArgumentParser]:
    leaves, parsers = [], [build_parser()]
    while parsers:
        parser = parsers.pop()
        below = list(reference.verbs_of(parser))
        parsers += below
        leaves += [] if below else [parser]
    return leaves

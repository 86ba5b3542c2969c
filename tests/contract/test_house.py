"""What the house promises of its own code: sizes, names, docstrings, layers."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract import sizes


def test_nothing_is_too_long() -> None:
    assert [str(length) for length in sizes.too_long()] == []


def test_functions_are_short_on_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{sizes.summary()}")  # noqa: T201 - the figures are for the reader of the test run
    lengths = sorted(length.lines for length in sizes.function_lengths())
    assert lengths[len(lengths) // 2] <= 20


def test_no_module_is_named_for_nothing() -> None:
    named = [
        path for path in sizes.modules() if set(path.relative_to(sizes.ROOT).with_suffix("").parts) & sizes.VAGUE_NAMES
    ]
    assert named == []


def test_annotations_are_real() -> None:
    """KFP reads them, so no module postpones them."""
    postponed = [path for path in sizes.modules() if "from __future__ import annotations\n" in path.read_text("utf-8")]
    assert postponed == []


def test_everything_public_says_what_it_is() -> None:
    bare = [
        f"{path.relative_to(sizes.ROOT)}: {name}"
        for path in sizes.modules()
        if path.relative_to(sizes.ROOT).parts[0] != "tests"
        for name in _undocumented(ast.parse(path.read_text("utf-8")))
    ]
    assert bare == []


def test_the_layers_hold() -> None:
    program = Path(sys.executable).parent / "lint-imports"
    command = [str(program), "--no-cache"]
    checked = subprocess.run(command, cwd=sizes.ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_suppression_has_its_reason() -> None:
    bare = [
        f"{path.relative_to(sizes.ROOT)}:{number}"
        for path in sizes.modules()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if re.search(r"# noqa(?!: [A-Z0-9, ]+ - \S)|# type: ignore(?!\[[a-z-]+(, ?[a-z-]+)*\]  ?# \S)", line)
        and path != Path(__file__)
    ]
    assert bare == []


def test_locks_have_hashes_and_name_no_index() -> None:
    for lock in sorted((sizes.ROOT / "requirements").glob("*.txt")):
        text = lock.read_text("utf-8")
        pins = re.findall(r"^[\w.\[\]-]+==.*$", text, re.MULTILINE)
        assert pins, lock
        assert all(pin.rstrip().endswith("\\") for pin in pins), f"{lock}: a pin without a hash"
        assert "://" not in text, f"{lock}: a lock names no place"


def test_the_package_root_holds_only_what_is_ours() -> None:
    """The wheel has one top-level name, whatever else lies in the checkout."""
    assert 'packages = ["vilam3"]' in (sizes.ROOT / "pyproject.toml").read_text("utf-8")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_explains_every_verb() -> None:
    text = (sizes.ROOT / "Makefile").read_text("utf-8")
    phony = set(re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE))
    assert phony == set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
    shown = subprocess.run(["make", "help"], cwd=sizes.ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S607 - of this machine
    assert [verb for verb in phony if f"make {verb}" not in shown] == []


def _undocumented(tree: ast.Module) -> list[str]:
    bare = [] if ast.get_docstring(tree) else ["the module"]
    scopes: list[ast.Module | ast.ClassDef] = [tree]
    while scopes:
        scope = scopes.pop()
        for node in scope.body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node) and not _is_overload(node):
                bare.append(node.name)
            if isinstance(node, ast.ClassDef):
                scopes.append(node)
    return bare


def _is_overload(node: ast.AST) -> bool:
    return any("overload" in ast.unparse(decorator) for decorator in getattr(node, "decorator_list", []))

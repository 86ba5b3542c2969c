"""The chart renders to what is kept, to the byte; so a change of a template shows in the same diff."""

from pathlib import Path

import pytest

from tests.chart import BUILD_TIMEOUT_S, CHART, ROOT, SCENARIOS, render
from tests.golden.charts.rendered import HERE
from vilam3.cli.main import main

pytestmark = pytest.mark.timeout(BUILD_TIMEOUT_S)
LAUNCHERS = {"here": "", "jobs": "jobs"}
COMPILED = CHART / "files" / "pipelines"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scenario_renders_to_what_is_kept(scenario: str) -> None:
    """Where a change is on purpose: make charts, and look at the difference."""
    assert render(scenario) == (HERE / f"{scenario}.yaml").read_text(encoding="utf-8")


def test_every_scenario_is_kept_and_nothing_else() -> None:
    assert {path.stem for path in HERE.glob("*.yaml")} == set(SCENARIOS)
    assert {path.stem.removesuffix("-values") for path in (CHART / "ci").glob("*.yaml")} == set(SCENARIOS)


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (ROOT / "pipelines" / "recipes").glob("*.toml")))
def test_the_chart_carries_what_compiles_today(recipe: str, tmp_path: Path) -> None:
    """Where a change is on purpose: make charts."""
    source = ROOT / "pipelines" / "recipes" / f"{recipe}.toml"
    for launcher, place in LAUNCHERS.items():
        command = [
            "pipeline",
            "compile",
            "--recipe",
            str(source),
            "--launcher",
            launcher,
            "--out",
            str(tmp_path / place),
        ]
        assert main(command) == 0
    assert _texts(tmp_path) == _texts(COMPILED / recipe)


def _texts(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*.yaml")}

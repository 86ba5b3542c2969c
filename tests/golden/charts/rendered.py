"""Writes the renderings that are kept, on purpose: ``python -m tests.golden.charts.rendered``."""

from pathlib import Path

from tests.chart import SCENARIOS, render

HERE = Path(__file__).parent


if __name__ == "__main__":
    for scenario in SCENARIOS:
        (HERE / f"{scenario}.yaml").write_text(render(scenario), encoding="utf-8")

"""How long the demo's stages took and how much memory it held, read from its latest summary; runs nothing itself."""

import json
from pathlib import Path
from typing import Any

from bench.record import Figure, write
from vilam3.errors import NotFoundError

SUMMARY = Path("runs/latest/summary.json")
COMMAND = "make demo && make bench AREAS=demo"
MOST_SECONDS = 600.0
MOST_PEAK_MB = 6000.0


def run(summary: Path = SUMMARY) -> dict[str, Any]:
    """Record the times of the latest demo against what the project promises.

    Raises:
        NotFoundError: no demo has finished here.
    """
    if not summary.is_file():
        raise NotFoundError(f"{summary}: no demo has finished here; run make demo first")
    told = json.loads(summary.read_text(encoding="utf-8"))
    stages = [Figure(name=f"stage {stage['name']}", value=stage["seconds"], unit="s") for stage in told["stages"]]
    whole = [
        Figure(name="whole demo", value=told["seconds_total"], unit="s", baseline=MOST_SECONDS),
        Figure(name="peak memory", value=told["peak_rss_mb"], unit="MB", baseline=MOST_PEAK_MB),
    ]
    return write("demo", stages + whole, command=COMMAND)

"""What a measurement is and where it is kept; knows nothing of what is measured.

An area module (``bench/<area>.py``) has a function ``run() -> dict[str, Any]`` that measures and returns
``write(area, figures, command=...)``, so that the same module serves ``make bench`` and a reader with a question. A
large area is made of `parts`, ``bench/<area>_<part>.py``, each with a function ``figures() -> list[Figure]``.
"""

import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from vilam3.artifacts import write_json
from vilam3.errors import VilaM3Error

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number.

    Attributes:
        name: What was measured, such as ``load peak memory``.
        value: The number.
        unit: Its unit, such as ``s``, ``ms``, ``MB`` or ``x``.
        baseline: What it is held against, in the same unit, or None where there is nothing to compare with.
    """

    name: str
    value: float
    unit: str
    baseline: float | None = None

    @property
    def ratio(self) -> float | None:
        """Value by baseline, or None without one."""
        return self.value / self.baseline if self.baseline else None


def write(area: str, figures: Sequence[Figure], *, command: str, root: Path = RESULTS) -> dict[str, Any]:
    """Write ``<root>/<area>.json`` whole and return its content.

    Args:
        area: Short name, the stem of the file.
        figures: What was measured, in the order to show.
        command: The command line that repeats the measurement.
        root: Where results are kept.
    """
    record = {
        "area": area,
        "commit": commit(),
        "machine": machine(),
        "command": command,
        "figures": [_as_json(figure) for figure in figures],
    }
    write_json(root / f"{area}.json", record)
    return record


def parts(area: str) -> tuple[list[Figure], list[str]]:
    """The figures of every part of an area, measured one after the other, and what those said that could not measure.

    Args:
        area: Short name.
    """
    measured: list[Figure] = []
    failed: list[str] = []
    for path in sorted(Path(__file__).parent.glob(f"{area}_*.py")):
        print(f"measuring {path.stem} ...", file=sys.stderr)
        try:
            measured += importlib.import_module(f"bench.{path.stem}").figures()
        except VilaM3Error as error:
            failed.append(f"{path.stem}: {error}")
    return measured, failed


def machine() -> dict[str, Any]:
    """What the numbers depend on; no host or user name."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def commit() -> str:
    """Short commit of the checkout, with ``+changes`` where the tree differs from it, or ``unknown`` outside git."""
    described = subprocess.run(
        ["git", "describe", "--always", "--exclude=*", "--dirty=+changes"],  # noqa: S607 - git of this machine
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def _as_json(figure: Figure) -> dict[str, Any]:
    return {
        "name": figure.name,
        "value": figure.value,
        "unit": figure.unit,
        "baseline": figure.baseline,
        "ratio": figure.ratio,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def measure_parts(area: str, *, command: str) -> dict[str, Any]:
    """Measure every part of an area and write its file, without those that could not measure.

    Args:
        area: Short name.
        command: The command line that repeats the measurement.

    Raises:
        VilaM3Error: there were such.
    """
    figures, failed = parts(area)
    record = write(area, figures, command=command)
    if failed:
        raise VilaM3Error("; ".join(failed))
    return record

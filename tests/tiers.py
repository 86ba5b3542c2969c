"""What becomes of a tier of tests: run by pytest in a process of its own, shown as it comes, summed up in a line."""

# ruff: noqa: T201 - programs print through this

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TEMPORARY = "PYTEST_DEBUG_TEMPROOT"  # pytest's own name for it
NOTHING_COLLECTED = 5  # pytest's exit code
REASON = re.compile(r"^SKIPPED \[\d+\] \S+?: (?:SKIPPED: )?(.+)$")

State = Literal["passed", "FAILED", "SKIPPED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a tier; `detail` is pytest's closing line, or why the tier was skipped."""

    tier: str
    state: State
    detail: str
    seconds: float = 0.0


def run(tier: str, arguments: Sequence[str], *, label: str = "") -> Result:
    """Run pytest with these arguments; a tier of which nothing could run is skipped, not passed.

    Args:
        tier: Its name.
        arguments: Of pytest.
        label: Before each of its lines, where other tiers print as well.
    """
    print(f"\n== {tier}", flush=True)
    began = time.monotonic()
    code, lines = _pytest(arguments, label)
    seconds, closing = time.monotonic() - began, lines[-1].strip().strip("= ") if lines else ""
    if code == NOTHING_COLLECTED:
        return Result(tier=tier, state="SKIPPED", detail="every test was deselected here", seconds=seconds)
    if code:
        return Result(tier=tier, state="FAILED", detail=closing, seconds=seconds)
    if "passed" not in closing:
        return Result(tier=tier, state="SKIPPED", detail="; ".join(reasons(lines)), seconds=seconds)
    return Result(tier=tier, state="passed", detail="; ".join([closing, *reasons(lines)]), seconds=seconds)


def reasons(lines: Sequence[str]) -> list[str]:
    """Why tests were skipped, each reason once, from what pytest prints with -rs."""
    return list(dict.fromkeys(found[1] for line in lines if (found := REASON.match(line))))


def show(results: Sequence[Result]) -> int:
    """Print a line for each tier; the exit code, 0 when none failed."""
    print("\ntier       result   seconds")
    for result in results:
        print(f"{result.tier:10} {result.state:8} {result.seconds:7.0f}  {result.detail}")
    return 1 if any(result.state == "FAILED" for result in results) else 0


def _pytest(arguments: Sequence[str], label: str) -> tuple[int, list[str]]:
    # One thread for each worker: more of them than cores makes everything slower.
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | dict(os.environ)
    if label:  # runs that share a folder for temporary files clear up each other's
        place = Path(environment.get(TEMPORARY, tempfile.gettempdir())) / f"vilam3-{label.strip(' :')}"
        place.mkdir(parents=True, exist_ok=True)
        environment[TEMPORARY] = str(place)
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:  # noqa: S603 - ourselves
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{label}{line}", end="", flush=True)
            if line.strip():
                lines.append(line.rstrip())
    return process.returncode, lines

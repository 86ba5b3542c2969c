"""Run the tiers one after the other, each to its end, and say what became of each: ``python -m tests [TIER ...]``."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TIERS = ("unit", "contract", "golden", "e2e")
MOST_WORKERS = 4  # each imports torch, so memory bounds it
NOTHING_COLLECTED = 5  # pytest's exit code


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a tier; `detail` is pytest's closing line, or why the tier was skipped."""

    tier: str
    state: Literal["passed", "FAILED", "SKIPPED"]
    detail: str
    seconds: float


def main(tiers: list[str]) -> int:
    """Run `tiers`, all of them when empty; 0 when none failed."""
    unknown = set(tiers) - set(TIERS)
    if unknown:
        print(f"python -m tests: no tier {', '.join(sorted(unknown))}; there are {', '.join(TIERS)}", file=sys.stderr)  # noqa: T201 - a program
        return 2
    results = [_run(tier) for tier in TIERS if not tiers or tier in tiers]
    print("\ntier      result   seconds")  # noqa: T201 - a program
    for result in results:
        print(f"{result.tier:9} {result.state:8} {result.seconds:7.0f}  {result.detail}")  # noqa: T201 - a program
    return 1 if any(result.state == "FAILED" for result in results) else 0


def _run(tier: str) -> Result:
    folder = Path(__file__).parent / tier
    if not any(folder.rglob("test_*.py")):
        return Result(tier=tier, state="SKIPPED", detail="no tests of this tier in this checkout", seconds=0.0)
    print(f"\n== {tier}", flush=True)  # noqa: T201 - a program
    began = time.monotonic()
    # Servers and measured times want the machine for themselves, the rest is shared out.
    workers = 0 if tier == "e2e" else min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    code, closing = _pytest([str(folder), "-n", str(workers)])
    if code == NOTHING_COLLECTED:
        return Result(tier=tier, state="SKIPPED", detail="every test was deselected here", seconds=0.0)
    state: Literal["passed", "FAILED"] = "FAILED" if code else "passed"
    return Result(tier=tier, state=state, detail=closing, seconds=time.monotonic() - began)


def _pytest(arguments: list[str]) -> tuple[int, str]:
    # One thread for each worker: more of them than cores makes everything slower.
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | dict(os.environ)
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    closing = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:  # noqa: S603 - ourselves
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)  # noqa: T201 - a program
            closing = line.strip().strip("= ") or closing
    return process.returncode, closing


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run the tiers one after the other, each to its end, and say what became of each: ``python -m tests [TIER ...]``."""

import os
import sys
from pathlib import Path

from tests import tiers
from tests.tiers import Result

TIERS = ("unit", "contract", "golden", "e2e")
MOST_WORKERS = 4  # each imports torch, so memory bounds it


def main(chosen: list[str]) -> int:
    """Run the tiers that are named, all of them when none is; 0 when none failed."""
    if unknown := sorted(set(chosen) - set(TIERS)):
        print(f"python -m tests: no tier {', '.join(unknown)}; there are {', '.join(TIERS)}", file=sys.stderr)  # noqa: T201 - a program
        return 2
    return tiers.show([_run(tier) for tier in TIERS if not chosen or tier in chosen])


def _run(tier: str) -> Result:
    folder = Path(__file__).parent / tier
    if not any(folder.rglob("test_*.py")):
        return Result(tier=tier, state="SKIPPED", detail="no tests of this tier in this checkout")
    # Servers and measured times want the machine for themselves, the rest is shared out.
    workers = 0 if tier == "e2e" else min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    return tiers.run(tier, [str(folder), "-n", str(workers)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

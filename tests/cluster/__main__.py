"""Run tiers on real clusters and say what became of each: ``python -m tests.cluster [--built-only] [TIER ...]``.

With ``--built-only``, a tier that would first have to build programs or environments of images is skipped.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests import tiers
from tests.cluster import built
from tests.tiers import Result

HERE = Path(__file__).parent
BUILT_ONLY = "--built-only"
# Each with what its tests lie in.
TIERS: Mapping[str, Sequence[str]] = {
    "api": ("api",),
    "node": ("cluster/test_api.py", "cluster/test_node.py"),
    "kserve": ("kserve",),
    "ray": ("ray",),
    "scale": ("scale",),
    "autoscale": ("autoscale",),
    "operators": ("cluster/test_full.py",),
    "kfp": (),
}
ABSENT = {
    "kfp": "the back end of Kubeflow Pipelines cannot be built here: its module is not to be had from the Go module "
    "proxy (asked on 2026-11-25); docs/adr/0011-no-kubeflow-pipelines-in-the-test-cluster.md"
}


def main(words: list[str]) -> int:
    """Run the tiers that are named, all of them when none is; 0 when none failed."""
    built_only, chosen = BUILT_ONLY in words, [word for word in words if word != BUILT_ONLY]
    if unknown := sorted(set(chosen) - set(TIERS)):
        print(f"python -m tests.cluster: no tier {', '.join(unknown)}; there are {', '.join(TIERS)}", file=sys.stderr)  # noqa: T201 - a program
        return 2
    return tiers.show([_run(tier, built_only=built_only) for tier in TIERS if not chosen or tier in chosen])


def _run(tier: str, *, built_only: bool) -> Result:
    places = [HERE / place for place in TIERS[tier]]
    absent = ABSENT.get(tier, "")
    if not absent and not all(map(_has_tests, places)):
        absent = "no tests of this tier in this checkout"
    if not absent and built_only and tier in built.PROGRAMS:
        absent = built.lacking(tier)
    if absent:
        return Result(tier=tier, state="SKIPPED", detail=absent)
    return tiers.run(tier, ["-vv", "-s", "-rs", *map(str, places)])  # a line for each test


def _has_tests(place: Path) -> bool:
    return place.is_file() or any(place.rglob("test_*.py"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

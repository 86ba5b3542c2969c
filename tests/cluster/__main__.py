"""Run tiers on real clusters and say what became of each: ``python -m tests.cluster [--built-only] [TIER ...]``.

Tiers mostly wait, for pods to come and for nodes to be missed. So those that bring up a cluster of their own run beside
those that share the one of ``make cluster-up``.

With ``--built-only``, a tier that would first have to build programs or environments of images is skipped.
"""

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import tiers
from tests.cluster import built
from tests.tiers import Result

HERE = Path(__file__).parent
BUILT_ONLY = "--built-only"
# Each with what its tests lie in.
TIERS: Mapping[str, Sequence[str]] = {
    "api": ("api/test_confinement.py", "api/test_preflight.py", "api/test_release.py"),
    "launch": ("api/launching",),
    "node": ("cluster/test_api.py", "cluster/test_node.py"),
    "kserve": ("kserve",),
    "ray": ("ray/test_serving.py", "ray/test_training.py"),
    "jobs": ("ray/test_launching.py",),
    "scale": ("scale",),
    "autoscale": ("autoscale",),
    "operators": ("cluster/test_full.py",),
    "kfp": (),
}
# Those of one lane follow each other; the last two measure, and have the machine to themselves.
LANES = (("api", "node", "scale", "launch", "kfp"), ("kserve", "ray", "jobs"))
ALONE = ("autoscale", "operators")
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
    wanted = chosen or list(TIERS)
    lanes = [chosen_of for lane in LANES if (chosen_of := [tier for tier in lane if tier in wanted])]
    with ThreadPoolExecutor(len(LANES)) as pool:
        together = pool.map(lambda lane: _lane(lane, built_only=built_only, is_alone=len(lanes) == 1), lanes)
        results = [result for lane in together for result in lane]
    results += _lane([tier for tier in ALONE if tier in wanted], built_only=built_only, is_alone=True)
    return tiers.show(sorted(results, key=lambda result: list(TIERS).index(result.tier)))


def _lane(chosen: Sequence[str], *, built_only: bool, is_alone: bool) -> list[Result]:
    return [_run(tier, built_only=built_only, label="" if is_alone else f"{tier}: ") for tier in chosen]


def _run(tier: str, *, built_only: bool, label: str) -> Result:
    places = [HERE / place for place in TIERS[tier]]
    absent = ABSENT.get(tier, "")
    if not absent and not all(map(_has_tests, places)):
        absent = "no tests of this tier in this checkout"
    if not absent and built_only and tier in built.PROGRAMS:
        absent = built.lacking(tier)
    if absent:
        return Result(tier=tier, state="SKIPPED", detail=absent)
    return tiers.run(tier, ["-vv", "-s", "-rs", *map(str, places)], label=label)  # a line for each test


def _has_tests(place: Path) -> bool:
    return place.is_file() or any(place.rglob("test_*.py"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

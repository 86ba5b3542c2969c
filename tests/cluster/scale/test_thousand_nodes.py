"""A thousand pretended nodes: experts and a gang get what they ask for, and what a silent node held starts elsewhere.

This is about the scheduler and the API server, which are real. No accelerator and no container is at work.
"""

from collections import Counter
from collections.abc import Iterator

import pytest

from bench import record
from bench.scale import drawn, nodes
from bench.scale.experiment import EXPERT_PODS, EXPERTS, GANG_POD, GANG_WORKERS, LOST_NODES, measure
from bench.scale.measured import Measured
from tests.chart import ROOT
from vilam3.errors import PrerequisiteError

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
KEPT = ROOT / "runs" / "scale"
NODE_LOST_S = 60  # serving.nodeLostSeconds of the chart
SILENT_S = 50  # after which the node controller takes a node for lost
LATE_S = 120  # of a busy machine
MOST_SCHEDULED_S = 600
MOST_APISERVER_CPU_S = 600
MOST_APISERVER_MB = 4000


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    """One run of the experiment, kept in runs/scale with its picture."""
    try:
        found = measure(tmp_path_factory.mktemp("scale") / "cluster")
    except PrerequisiteError as lacking:
        pytest.skip(f"SKIPPED: no cluster of pretended nodes: {lacking}")
    found.write(KEPT / "scale.json")
    machine = record.machine()
    drawn.write_page(found, KEPT / "scale.html", machine=f"{machine['cores']} cores, {machine['cpu']}")
    yield found
    print(f"\n{drawn.TRUTH}")  # noqa: T201 - what the tier shows
    for name, value in drawn.facts(found):
        print(f"  {name}: {value}")  # noqa: T201 - what was measured is to be seen
    print(f"  the picture: {(KEPT / 'scale.html').relative_to(ROOT)}")  # noqa: T201 - likewise


def _placed(measured: Measured, prefix: str) -> list[str]:
    return [placement.node for placement in measured.placements if placement.pod.startswith(prefix)]


def test_every_expert_and_the_whole_gang_get_a_node(measured: Measured) -> None:
    assert len(_placed(measured, EXPERT_PODS)) == EXPERTS
    assert len(_placed(measured, GANG_POD)) == GANG_WORKERS
    assert measured.scheduled_s < MOST_SCHEDULED_S


def test_no_accelerator_is_given_twice(measured: Measured) -> None:
    """A worker of the gang has all of its node; experts have the rest."""
    given = Counter(_placed(measured, EXPERT_PODS))
    given.update(dict.fromkeys(_placed(measured, GANG_POD), nodes.ACCELERATORS))
    assert sum(given.values()) == EXPERTS + GANG_WORKERS * nodes.ACCELERATORS
    assert max(given.values()) <= nodes.ACCELERATORS


def test_experts_are_spread_over_nodes_and_zones(measured: Measured) -> None:
    """The chart asks for nodes, and the scheduler keeps zones even by itself."""
    placed = _placed(measured, EXPERT_PODS)
    assert max(Counter(placed).values()) <= 2
    zones = Counter(node.rpartition("-")[0] for node in placed)
    assert all(zones[zone] >= EXPERTS / 10 for zone in nodes.ZONES if zone != nodes.SMALL_ZONE), zones


def test_experts_of_silent_nodes_start_elsewhere(measured: Measured) -> None:
    assert len(measured.lost_nodes) == LOST_NODES
    assert measured.lost_pods[GANG_POD] == LOST_NODES // 2
    assert measured.lost_pods[EXPERT_PODS] >= LOST_NODES // 2
    assert NODE_LOST_S < measured.replaced_s[EXPERT_PODS] < SILENT_S + NODE_LOST_S + LATE_S


def test_a_lost_worker_of_the_gang_is_replaced_once_its_node_is_declared_gone(measured: Measured) -> None:
    """By a taint that Kubernetes has for it, or by deleting the node, as clouds do; KubeRay counts it till then."""
    assert 0 < measured.replaced_s[GANG_POD] < LATE_S


def test_without_kueue_a_gang_that_does_not_fit_holds_what_it_gets(measured: Measured) -> None:
    """Which is why `training.queue` exists: the scheduler places pods, and knows no gangs."""
    assert 0 < measured.unfit_placed <= nodes.ZONES[nodes.SMALL_ZONE]
    assert measured.unfit_placed + measured.unfit_pending == GANG_WORKERS


def test_experts_in_number_leave_a_gang_no_whole_node(measured: Measured) -> None:
    """The chart spreads them, so that a pool that is shared needs a selector for one of the two, or Kueue."""
    assert measured.whole_nodes_left < GANG_WORKERS


def test_a_thousand_pods_cost_the_api_server_little(measured: Measured) -> None:
    assert 0 < measured.apiserver_cpu_s_per_1000_pods < MOST_APISERVER_CPU_S
    assert 0 < measured.apiserver_memory_mb < MOST_APISERVER_MB


def test_the_picture_says_what_it_does_not_show(measured: Measured) -> None:
    page = (KEPT / "scale.html").read_text("utf-8")
    assert drawn.TRUTH in page
    assert page.count("<svg") == 1
    assert all(mark in page for mark in measured.marks)
    assert "http" not in page.partition("<svg")[0]

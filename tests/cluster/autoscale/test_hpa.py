"""Without KEDA the chart's HorizontalPodAutoscaler follows the processors that the language model uses."""

import pytest

from bench import record
from tests.chart import ROOT
from tests.cluster.autoscale import drawn, reaction
from tests.cluster.autoscale.platform import ScalingPlatform
from tests.cluster.autoscale.reaction import Reaction

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(7200)]
KEPT = ROOT / "runs" / "autoscale"
STABLE_S = 30  # autoscaling.scaleDownStabilizationSeconds


@pytest.fixture(scope="module")
def measured(platform: ScalingPlatform) -> Reaction:
    """One time up and down, kept in runs/autoscale with its picture."""
    found = reaction.measure(platform, scaler="hpa")
    found.write(KEPT / "hpa.json")
    machine = record.machine()
    drawn.write_page(found, KEPT / "hpa.html", machine=f"{machine['cores']} cores, {machine['cpu']}")
    print(f"\n{drawn.summary(found)}\nthe picture: {KEPT.relative_to(ROOT)}/hpa.html")  # noqa: T201 - what the tier shows
    return found


def test_replicas_follow_the_load_up_and_down(measured: Reaction) -> None:
    counts = [one.ready for one in measured.replicas]
    assert counts[0] == counts[-1] == 1
    assert max(counts) >= 2
    assert measured.up_s > 0
    assert measured.down_s > STABLE_S


def test_no_request_is_lost_on_the_way(measured: Reaction) -> None:
    """Neither to a pod that is not ready yet, nor to one that ends."""
    assert measured.lost == []
    assert measured.requests == pytest.approx(reaction.PER_SECOND * measured.load_s, rel=0.05, abs=5)


def test_the_picture_shows_the_same(measured: Reaction) -> None:
    page = (KEPT / "hpa.html").read_text("utf-8")
    assert drawn.summary(measured) in page
    assert page.count("<svg") == 1

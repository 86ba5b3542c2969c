"""What callers notice of an upgrade and of a rollback, and what an uninstallation leaves."""

import json
import time

import pytest

from tests.chart import RELEASE
from tests.cluster.kserve.load import PER_SECOND, asked_meanwhile
from tests.cluster.kserve.platform import UPGRADE, Platform
from tests.cluster.kserve.versions import await_version, served

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(7200)]
AROUND_S = 10
MOST_LATE_S = 5.0  # the generator shares two cores with everything that it asks


def test_a_rolling_upgrade_under_load_loses_nothing_and_a_rollback_brings_the_old_version(platform: Platform) -> None:
    """Model and orchestrator are replaced while 20 requests a second arrive, whatever became of those before them."""
    before = served(platform)
    with asked_meanwhile(platform.orchestrator, key=platform.caller_key) as load:
        time.sleep(AROUND_S)
        platform.apply(UPGRADE)
        await_version(platform, wanted=lambda digest: digest != before)
        upgraded_s = load.elapsed_s()
        time.sleep(AROUND_S)
    print(f"\n{load}")  # noqa: T201 - what the tier shows
    assert load.lost == []
    assert len(load.requests) == pytest.approx(PER_SECOND * load.seconds, rel=0.02)
    assert load.lateness_s < MOST_LATE_S
    assert load.seconds > upgraded_s > AROUND_S
    platform.helm("rollback", RELEASE)
    assert await_version(platform, wanted=lambda digest: digest == before) == served(platform)


def test_an_uninstallation_leaves_nothing(platform: Platform) -> None:
    platform.remove()
    left = json.loads(platform.kubectl("get", "deployment,service,persistentvolumeclaim", "-o", "json"))["items"]
    assert {item["metadata"]["name"] for item in left} == {"s3", "weights"}

"""From nothing to an answer of the chart's pods, an upgrade under load, and placement on a thousand pretended nodes.

Programs and images must have been built; what building the programs took was noted when they were. The clusters come up
for this and go; node, pods and callers share this machine's processors, and the times are those of such a machine.

*Cold* begins before the cluster does: it comes up with KServe, gets the images, its store gets the weights, ``helm
install``; and it ends with the first whole answer about a CT. *Warm* is ``helm install`` alone on that cluster, to the
first whole answer.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.record import Figure, write
from bench.scale.experiment import measure
from infra.cluster import tools
from tests.cluster import built, clusters
from tests.cluster.autoscale import reaction
from tests.cluster.autoscale.platform import VALUES as SCALED_VALUES
from tests.cluster.autoscale.platform import ScalingPlatform
from tests.cluster.kserve.load import PER_SECOND, asked_meanwhile
from tests.cluster.kserve.platform import ROLES, TOOLS, UPGRADE, Platform
from tests.cluster.kserve.trained import another, scan, trained
from tests.cluster.kserve.versions import await_version, served
from tests.cluster.questions import events, question, upload
from vilam3.errors import ClusterError

COMMAND = "make bench-cluster"
AROUND_S = 10.0  # of the load, before and after the upgrade


def run() -> dict[str, Any]:
    """Measure and write ``cluster.json``.

    Raises:
        PrerequisiteError: This machine cannot run a node, or programs or images have not been built.
    """
    figures: list[Figure] = []
    record: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="vilam3-bench-") as folder:
        parts = {"kserve": installation, "scale": scale, "autoscale": autoscale}
        for name, part in parts.items():
            figures += part(Path(folder) / name)
            record = write("cluster", [*build_cold(), *figures], command=COMMAND)  # kept, whatever becomes of the next
    return record


def build_cold() -> list[Figure]:
    """Processor time of the builds of a cluster's programs, as it was noted; nothing where one of them was not."""
    took = {name: tools.took(name) for name in built.PROGRAMS["kserve"]}
    if unknown := sorted(name for name, noted in took.items() if noted is None):
        print(f"build_cold_s is left out: no build of {', '.join(unknown)} was noted here", file=sys.stderr)
        return []
    return [Figure(name="build_cold_s", value=sum(noted.cpu_s for noted in took.values() if noted), unit="s")]


def installation(folder: Path) -> list[Figure]:
    """The chart under KServe: how long until it answers, and what an upgrade loses."""
    clusters.build_images(ROLES)
    folder.mkdir()
    weights = trained(folder / "trained")
    untaught = another(folder / "another")
    began = _since()
    with clusters.own_cluster(folder, operators=["kserve"]) as local:
        up_s = began()
        clusters.load_images(local, roles=ROLES, tools=TOOLS)
        loaded_s = began() - up_s
        platform = Platform(kubeconfig=local.kubeconfig)
        with platform.surrounded(weights, another=untaught):
            installed = _since()
            _install_and_ask(platform)
            first_s, cold_s = installed(), began()
            platform.remove()
            again = _since()
            _install_and_ask(platform)
            warm_s = again()
            upgrade = _upgrade(platform)
    return [
        Figure(name="install_to_answer_cold_s", value=cold_s, unit="s"),
        Figure(name="of these: cluster with KServe comes up", value=up_s, unit="s"),
        Figure(name="of these: images are loaded", value=loaded_s, unit="s"),
        Figure(name="of these: from helm install to the answer", value=first_s, unit="s"),
        Figure(name="install_to_answer_warm_s", value=warm_s, unit="s"),
        *upgrade,
    ]


def scale(folder: Path) -> list[Figure]:
    """A thousand pretended nodes of eight accelerators; their API server and scheduler are real."""
    found = measure(folder)
    return [
        Figure(name="kwok_1000_nodes_scheduled_s", value=found.scheduled_s, unit="s"),
        Figure(name="apiserver_cpu_s_per_1000_pods", value=found.apiserver_cpu_s_per_1000_pods, unit="s"),
    ]


def autoscale(folder: Path) -> list[Figure]:
    """Replicas of the language model under the chart's HPA: up under load, down after it."""
    folder.mkdir()
    weights, untaught = trained(folder / "trained"), another(folder / "another")
    with clusters.own_cluster(folder, operators=["kserve", "metrics"]) as local:
        clusters.load_images(local, roles=ROLES, tools=TOOLS)
        platform = ScalingPlatform(kubeconfig=local.kubeconfig, values=SCALED_VALUES)
        with platform.surrounded(weights, another=untaught):
            platform.apply()
            platform.await_ready()
            found = reaction.measure(platform, scaler="hpa")
    return [
        Figure(name="autoscale_up_s", value=found.up_s, unit="s"),
        Figure(name="autoscale_down_s", value=found.down_s, unit="s"),
        Figure(name="autoscale_lost_requests", value=len(found.lost), unit="requests"),
    ]


def _install_and_ask(platform: Platform) -> None:
    platform.apply()
    platform.await_ready()
    with platform.client() as caller:
        study = upload(caller, platform.orchestrator, scan())
        *_, answer = events(caller, platform.orchestrator, question(study, stream=True))
    if not answer["expert_calls"] or answer["expert_calls"][0]["error"]:
        raise ClusterError(f"the first answer has no expert's finding: {answer}")


def _upgrade(platform: Platform) -> list[Figure]:
    before = served(platform)
    with asked_meanwhile(platform.orchestrator, key=platform.caller_key) as load:
        time.sleep(AROUND_S)
        platform.apply(UPGRADE)
        await_version(platform, wanted=lambda digest: digest != before)
        time.sleep(AROUND_S)
    return [
        Figure(name="rolling_upgrade_lost_requests", value=len(load.lost), unit="requests"),
        Figure(name=f"of these asked, at {PER_SECOND} a second", value=len(load.requests), unit="requests"),
        Figure(name="latest request sent after it was due", value=load.lateness_s, unit="s"),
    ]


def _since() -> Callable[[], float]:
    """Seconds from now on, whenever it is asked."""
    began = time.monotonic()
    return lambda: time.monotonic() - began

"""The experiment: a thousand nodes, two hundred experts and a gang of 512 accelerators, then nodes that go silent."""

import copy
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.scale import nodes
from bench.scale.measured import Measured, Placement
from bench.scale.observed import Pod, Pods, Sample, followed, sampled, taken_by
from bench.scale.simulation import EXPERT, NAMESPACE, RELEASE, Simulation, brought_up
from infra.cluster.simulated import MANAGED

EXPERTS = 200
GANG_WORKERS = 64
GANG_PODS = GANG_WORKERS + 1  # its head has no accelerator
PODS = 1000  # of the platform, in the end: over so many the API server's load is counted
IDLE_S = 30.0
STILL_S = 15.0  # in which a gang that does not fit gets no further
LOST_NODES = 10
TIMEOUT_S = 1200.0
API_SERVER = "kube-apiserver"
GANG, UNFIT = f"{RELEASE}-training", f"{RELEASE}-unfit"
EXPERT_PODS, GANG_POD = f"{RELEASE}-{EXPERT}-predictor", f"{GANG}-trainers"
SEED = 20


def measure(root: Path) -> Measured:
    """Bring a cluster up in `root`, run the experiment, and take the cluster down."""
    with ExitStack() as stack:
        simulation = stack.enter_context(brought_up(root))
        pods = stack.enter_context(followed(simulation.layout.kubeconfig, namespace=NAMESPACE))
        samples = stack.enter_context(sampled(simulation.processes()))
        return Experiment(simulation, pods=pods, samples=samples).run()


class Experiment:
    """One run; each step leaves what the next one needs."""

    def __init__(self, simulation: Simulation, *, pods: Pods, samples: Mapping[str, Sequence[Sample]]) -> None:
        """Nothing is done yet."""
        self._simulation = simulation
        self._pods = pods
        self._samples = samples
        self._api_server = simulation.processes()[API_SERVER]
        self._marks: dict[str, float] = {}

    def run(self) -> Measured:
        """Every step in its order."""
        nodes_ready_s = self._add_nodes()
        idle_cores = self._rest()
        before = taken_by(self._api_server)
        scheduled_s = self._install()
        placements = [Placement(pod=pod.name, node=pod.node) for pod in self._pods.living()]
        thousand_s = self._grow()
        after = taken_by(self._api_server)
        lost, lost_pods, replaced_s = self._lose_nodes()
        unfit_placed = self._ask_for_a_gang_that_does_not_fit()
        busy_s = after.cpu_s - before.cpu_s - idle_cores * (after.at_s - before.at_s)
        return Measured(
            nodes_ready_s=nodes_ready_s,
            scheduled_s=scheduled_s,
            placements=placements,
            idle_apiserver_cores=idle_cores,
            apiserver_cpu_s_per_1000_pods=busy_s * 1000 / PODS,
            apiserver_memory_mb=max(sample.memory_mb for sample in self._samples[API_SERVER]),
            thousand_pods_s=thousand_s,
            lost_nodes=lost,
            lost_pods=lost_pods,
            replaced_s=replaced_s,
            unfit_placed=unfit_placed,
            unfit_pending=GANG_WORKERS - unfit_placed,
            **self._timeline(),
        )

    def _add_nodes(self) -> float:
        self._mark("nodes are made")
        began = time.monotonic()
        self._simulation.create(nodes.manifests())
        self._simulation.kubectl("wait", "--for=condition=Ready", f"--timeout={TIMEOUT_S:.0f}s", "nodes", "--all")
        return time.monotonic() - began

    def _rest(self) -> float:
        """Cores that the API server takes while nothing happens but heartbeats."""
        self._mark("heartbeats alone")
        before = taken_by(self._api_server)
        time.sleep(IDLE_S)
        after = taken_by(self._api_server)
        return (after.cpu_s - before.cpu_s) / (after.at_s - before.at_s)

    def _install(self) -> float:
        """Install the chart with its gang, and the experts as KServe would make them."""
        self._mark("chart, 200 experts, gang")
        self._began_s = time.monotonic()
        self._simulation.install(workers=GANG_WORKERS)
        self._simulation.create([self._simulation.expert_deployment(replicas=EXPERTS)])
        self._await_running({EXPERT_PODS: EXPERTS, GANG: GANG_PODS})
        return max(pod.placed_s or 0.0 for pod in self._pods.living()) - self._began_s

    def _grow(self) -> float:
        self._mark("experts to 1000 pods")
        replicas = PODS - GANG_PODS
        self._simulation.kubectl("scale", "deployment", EXPERT_PODS, f"--replicas={replicas}")
        self._await_running({EXPERT_PODS: replicas, GANG: GANG_PODS})
        return max(pod.placed_s or 0.0 for pod in self._pods.living()) - self._began_s

    def _await_running(self, wanted: Mapping[str, int]) -> None:
        def there() -> bool:
            running = [pod for pod in self._pods.living() if pod.running_s is not None]
            counted = {prefix: sum(pod.name.startswith(prefix) for pod in running) for prefix in wanted}
            return counted == dict(wanted)

        self._pods.wait_for(there, what=f"pods {dict(wanted)} run", timeout_s=TIMEOUT_S)

    def _lose_nodes(self) -> tuple[list[str], dict[str, int], dict[str, float]]:
        """Let one node in a hundred go silent, half of them the gang's, and wait until its pods are elsewhere."""
        self._mark("10 nodes go silent")
        chance = random.Random(SEED)  # noqa: S311 - no secret
        gang = sorted(pod.node for pod in self._pods.living(prefix=GANG_POD))
        others = sorted({pod.node for pod in self._pods.living(prefix=EXPERT_PODS)} - set(gang))
        lost = chance.sample(gang, LOST_NODES // 2) + chance.sample(others, LOST_NODES // 2)
        victims = [pod for pod in self._pods.living() if pod.node in lost]
        began = time.monotonic()
        self._simulation.kubectl("annotate", "node", *lost, f"{MANAGED[0]}-")
        replaced = {prefix: self._replaced(victims, prefix=prefix, since=began) for prefix in (EXPERT_PODS, GANG_POD)}
        self._mark("replaced")
        return lost, dict(Counter(_owner(pod) for pod in victims)), replaced

    def _replaced(self, victims: Sequence[Pod], *, prefix: str, since: float) -> float:
        """Seconds from `since` until as many pods of a kind have started elsewhere as were lost."""
        wanted = sum(pod.name.startswith(prefix) for pod in victims)

        def new() -> list[Pod]:
            found = self._pods.living(prefix=prefix)
            return [pod for pod in found if pod.created_s > since and pod.running_s is not None]

        self._pods.wait_for(lambda: len(new()) >= wanted, what=f"{wanted} new {prefix}", timeout_s=TIMEOUT_S)
        return max(pod.running_s or 0.0 for pod in new()) - since

    def _ask_for_a_gang_that_does_not_fit(self) -> int:
        """A copy of the chart's gang for the small zone alone; how many of its workers got a node there."""
        self._mark("a gang that does not fit")
        self._simulation.create([_unfit(self._simulation.read("raycluster", GANG))])
        self._pods.wait_for(lambda: len(self._workers()) == GANG_WORKERS, what="its workers", timeout_s=TIMEOUT_S)
        placed, since = -1, 0.0
        while placed != self._placed_workers() or time.monotonic() - since < STILL_S:
            if placed != self._placed_workers():
                placed, since = self._placed_workers(), time.monotonic()
            time.sleep(1.0)
        return placed

    def _workers(self) -> list[Pod]:
        return self._pods.living(prefix=f"{UNFIT}-trainers")

    def _placed_workers(self) -> int:
        return sum(bool(pod.node) for pod in self._workers())

    def _mark(self, name: str) -> None:
        self._marks[name] = time.monotonic()

    def _timeline(self) -> dict[str, Any]:
        """Everything that has a moment, counted from the first mark."""
        start = min(self._marks.values())
        placed = sorted(pod.placed_s - start for pod in self._pods.all() if pod.placed_s is not None)
        samples = {
            name: [Sample(at_s=one.at_s - start, cpu_s=one.cpu_s, memory_mb=one.memory_mb) for one in taken]
            for name, taken in self._samples.items()
        }
        marks = {name: moment - start for name, moment in self._marks.items()}
        return {"marks": marks, "placed_s": placed, "samples": samples}


def _owner(pod: Pod) -> str:
    return next((prefix for prefix in (EXPERT_PODS, GANG_POD) if pod.name.startswith(prefix)), GANG)


def _unfit(gang: Mapping[str, Any]) -> dict[str, Any]:
    spec = copy.deepcopy(gang["spec"])
    spec["workerGroupSpecs"][0]["template"]["spec"]["nodeSelector"] = {nodes.ZONE: nodes.SMALL_ZONE}
    metadata = {"name": UNFIT, "namespace": NAMESPACE}
    return {"apiVersion": gang["apiVersion"], "kind": gang["kind"], "metadata": metadata, "spec": spec}

"""The experiment: a thousand nodes, two hundred experts and a gang of 512 accelerators, then nodes that go silent."""

import copy
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.scale import nodes
from bench.scale.measured import Measured, Placement
from bench.scale.observed import Pod, Pods, Sample, followed, sampled, taken_by
from bench.scale.simulation import EXPERT, NAMESPACE, RELEASE, Simulation, brought_up

EXPERTS = 200
GANG_WORKERS = 64
GANG_PODS = GANG_WORKERS + 1  # its head has no accelerator
PODS = 1000  # of the platform, in the end: over so many the API server's load is counted
IDLE_S = 30.0
STILL_S = 15.0  # in which a gang that does not fit gets no further
LOST_NODES = 10
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service=lost:NoExecute"
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
        scheduled_s, first_cpu_s = self._above(idle_cores, self._install)
        placements = [Placement(pod=pod.name, node=pod.node) for pod in self._pods.living()]
        lost, lost_pods, replaced_s = self._lose_nodes()
        unfit_placed = self._ask_for_a_gang_that_does_not_fit()
        grown_s, more_cpu_s = self._above(idle_cores, self._grow)
        return Measured(
            nodes_ready_s=nodes_ready_s,
            scheduled_s=scheduled_s,
            placements=placements,
            idle_apiserver_cores=idle_cores,
            apiserver_cpu_s_per_1000_pods=(first_cpu_s + more_cpu_s) * 1000 / PODS,
            apiserver_memory_mb=max(sample.memory_mb for sample in self._samples[API_SERVER]),
            thousand_pods_s=scheduled_s + grown_s,
            whole_nodes_left=sum(nodes.ZONES.values()) - len({pod.node for pod in self._holders()}),
            lost_nodes=lost,
            lost_pods=lost_pods,
            replaced_s=replaced_s,
            unfit_placed=unfit_placed,
            unfit_pending=GANG_WORKERS - unfit_placed,
            **self._timeline(),
        )

    def _above(self, idle_cores: float, step: Callable[[], float]) -> tuple[float, float]:
        """What a step returns, and the API server's processor time for it beyond what it takes at rest."""
        before = taken_by(self._api_server)
        returned = step()
        after = taken_by(self._api_server)
        return returned, after.cpu_s - before.cpu_s - idle_cores * (after.at_s - before.at_s)

    def _holders(self) -> list[Pod]:
        """Pods that hold accelerators."""
        return [pod for pod in self._pods.living() if pod.name.startswith((EXPERT_PODS, GANG_POD)) and pod.node]

    def _add_nodes(self) -> float:
        self._mark("nodes are made")
        began = time.monotonic()
        made = nodes.manifests()
        self._simulation.create(made)
        self._pods.wait_for(lambda: self._ready_nodes() == len(made), what="the nodes", timeout_s=TIMEOUT_S)
        return time.monotonic() - began

    def _ready_nodes(self) -> int:
        ready = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {end}'
        return self._simulation.kubectl("get", "nodes", f"--output=jsonpath={ready}").split().count("True")

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
        began = time.monotonic()
        self._simulation.install(workers=GANG_WORKERS)
        self._simulation.create([self._simulation.expert_deployment(replicas=EXPERTS)])
        self._await_running({EXPERT_PODS: EXPERTS, GANG: GANG_PODS})
        return self._last_placed() - began

    def _grow(self) -> float:
        self._mark("experts to 1000 pods")
        began, replicas = time.monotonic(), PODS - GANG_PODS
        self._simulation.kubectl("scale", "deployment", EXPERT_PODS, f"--replicas={replicas}")
        self._await_running({EXPERT_PODS: replicas, GANG: GANG_PODS})
        return self._last_placed() - began

    def _last_placed(self) -> float:
        return max(pod.placed_s or 0.0 for pod in self._pods.living())

    def _await_running(self, wanted: Mapping[str, int]) -> None:
        def there() -> bool:
            running = [pod for pod in self._pods.living() if pod.running_s is not None]
            counted = {prefix: sum(pod.name.startswith(prefix) for pod in running) for prefix in wanted}
            return counted == dict(wanted)

        self._pods.wait_for(there, what=f"pods {dict(wanted)} run", timeout_s=TIMEOUT_S)

    def _lose_nodes(self) -> tuple[list[str], dict[str, int], dict[str, float]]:
        """Let one node in a hundred go silent, half of them the gang's; what they held starts elsewhere.

        Experts do by themselves. A worker of the gang does once somebody who knows says that its node is gone: until
        then its pod could still run there, and KubeRay keeps counting it.
        """
        self._mark("10 nodes go silent")
        lost = self._chosen()
        victims = [pod for pod in self._pods.living() if pod.node in lost]
        silent = time.monotonic()
        self._simulation.silence(lost)
        experts_s = self._replaced(victims, prefix=EXPERT_PODS, since=silent)
        self._mark("declared out of service")
        declared = time.monotonic()
        self._simulation.kubectl("taint", "nodes", *lost, OUT_OF_SERVICE)
        gang_s = self._replaced(victims, prefix=GANG_POD, since=declared)
        return lost, dict(Counter(map(_owner, victims))), {EXPERT_PODS: experts_s, GANG_POD: gang_s}

    def _chosen(self) -> list[str]:
        """Nodes of the gang and nodes of experts, half and half."""
        chance = random.Random(SEED)  # noqa: S311 - no secret
        gang = sorted(pod.node for pod in self._pods.living(prefix=GANG_POD))
        others = sorted({pod.node for pod in self._pods.living(prefix=EXPERT_PODS)} - set(gang))
        return chance.sample(gang, LOST_NODES // 2) + chance.sample(others, LOST_NODES // 2)

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
        self._simulation.kubectl("delete", "raycluster", UNFIT)
        self._pods.wait_for(lambda: not self._workers(), what="an end of it", timeout_s=TIMEOUT_S)
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

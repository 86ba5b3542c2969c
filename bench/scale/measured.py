"""What the experiment comes to, as a value that is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.scale.observed import Sample
from vilam3.artifacts import write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A pod that was given a node."""

    pod: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of it. Moments count from when the nodes were there.

    Attributes:
        nodes_ready_s: From the first node's creation until all were ready.
        scheduled_s: From the chart's installation until experts and gang had their nodes.
        placements: Of experts and gang, then.
        idle_apiserver_cores: What the API server takes for the nodes' heartbeats alone.
        apiserver_cpu_s_per_1000_pods: Above that, from no pod to a thousand ready ones.
        apiserver_memory_mb: The most that it held.
        thousand_pods_s: For a thousand pods altogether; between the two steps nodes were lost.
        whole_nodes_left: Nodes with all their accelerators free, then.
        lost_nodes: Nodes that went silent.
        lost_pods: Pods that were on them, by what they belong to.
        replaced_s: Until as many ran elsewhere: experts from when the nodes went silent, workers of the gang from when
            the nodes were declared out of service.
        unfit_placed: Workers that got a node of a gang that does not fit; the scheduler knows no gangs.
        unfit_pending: And those that did not.
        marks: Moments of the experiment by name.
        placed_s: Moments at which pods got their nodes.
        samples: What the programs took.
    """

    nodes_ready_s: float
    scheduled_s: float
    placements: Sequence[Placement]
    idle_apiserver_cores: float
    apiserver_cpu_s_per_1000_pods: float
    apiserver_memory_mb: float
    thousand_pods_s: float
    whole_nodes_left: int
    lost_nodes: Sequence[str]
    lost_pods: Mapping[str, int]
    replaced_s: Mapping[str, float]
    unfit_placed: int
    unfit_pending: int
    marks: Mapping[str, float]
    placed_s: Sequence[float]
    samples: Mapping[str, Sequence[Sample]]

    def write(self, file: Path) -> None:
        """Write it whole."""
        write_json(file, asdict(self))

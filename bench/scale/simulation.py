"""A cluster of pretended nodes, with the chart installed in it as on a real one."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.cluster import manifests, tools
from infra.cluster.layout import Layout
from infra.cluster.local import Local
from vilam3.errors import ClusterError

CHART = Path(__file__).parents[2] / "charts" / "vilam3"
VALUES = CHART / "ci" / "gpu-values.yaml"
RELEASE = NAMESPACE = "vilam3"
EXPERT = "vista3d"
LEASES = "kube-node-lease"  # namespace
SILENT_S = 24 * 3600
CLAIM = "weights"
# What KServe reads of a predictor; the rest of it is a pod.
KSERVES = frozenset({"minReplicas", "maxReplicas", "timeout", "deploymentStrategy"})
WEIGHTS = f"pvc://{CLAIM}/experts/{EXPERT}"  # given so, the chart renders a pod that KServe adds nothing to


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """A cluster of level `simulated` that is up."""

    layout: Layout

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl in the release's namespace and return what it says."""
        return manifests.kubectl(self.layout.kubeconfig, [f"--namespace={NAMESPACE}", *arguments], stdin=stdin)

    def create(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Create objects; a field that the API server does not know is an error."""
        told = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("create", "--validate=strict", "--filename=-", stdin=told)

    def read(self, kind: str, name: str) -> dict[str, Any]:
        """One object."""
        told: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "--output=json"))
        return told

    def processes(self) -> dict[str, int]:
        """The cluster's programs and their process numbers."""
        states = json.loads(self.layout.processes.read_text("utf-8"))["processes"]
        return {state["name"]: int(state["pid"]) for state in states if state["pid"]}

    def silence(self, nodes: Sequence[str]) -> None:
        """Let nodes send no more heartbeats: somebody else holds their leases, and KWOK leaves such nodes alone."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        spec = {"holderIdentity": "nobody", "leaseDurationSeconds": SILENT_S, "renewTime": now}
        kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        taken = [{**kind, "metadata": {"name": node, "namespace": LEASES}, "spec": spec} for node in nodes]
        told = json.dumps({"apiVersion": "v1", "kind": "List", "items": taken})
        arguments = ["apply", "--server-side", "--force-conflicts", "--filename=-"]
        manifests.kubectl(self.layout.kubeconfig, arguments, stdin=told)

    def install(self, *, workers: int) -> None:
        """Install the chart with a training cluster of so many workers of eight accelerators."""
        values = {
            "preflight": False,  # it looks for what this level has not
            "mlflow": {"enabled": False, "uri": "http://mlflow.example.org"},
            "pipelines": {"enabled": False},
            "monitoring": {"enabled": "never"},
            "experts": {EXPERT: {"model": WEIGHTS}},
            "training": {"enabled": True, "workers": {"min": workers, "max": workers, "gpus": 8}},
        }
        command = [str(tools.path("helm")), f"--kubeconfig={self.layout.kubeconfig}", f"--namespace={NAMESPACE}"]
        command += ["install", RELEASE, str(CHART), f"--values={VALUES}", "--values=-"]
        ran = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        if ran.returncode:
            raise ClusterError(f"the chart does not install: {ran.stderr.strip()}")

    def expert_deployment(self, *, replicas: int) -> dict[str, Any]:
        """The Deployment of an expert as KServe would make it of the chart's InferenceService."""
        service = self.read("inferenceservice", f"{RELEASE}-{EXPERT}")
        predictor, labels = service["spec"]["predictor"], service["metadata"]["labels"]
        pod = {name: value for name, value in predictor.items() if name not in KSERVES}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": f"{RELEASE}-{EXPERT}-predictor", "namespace": NAMESPACE, "labels": labels},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app.kubernetes.io/component": EXPERT}},
                "strategy": predictor["deploymentStrategy"],
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }


@contextmanager
def brought_up(root: Path) -> Iterator[Simulation]:
    """A cluster of level `simulated` in `root`, gone afterwards."""
    provider = Local(layout=Layout(root.absolute()), say=print)
    try:
        provider.up("simulated")
        simulation = Simulation(layout=provider.layout)
        simulation.kubectl("create", "namespace", NAMESPACE)
        simulation.create(_claim())
        yield simulation
    finally:
        provider.down()


def _claim() -> list[dict[str, Any]]:
    """Weights on a volume that every node reaches; nobody mounts it here, but the scheduler wants it bound."""
    modes, size = ["ReadOnlyMany"], {"storage": "1Gi"}
    volume = {
        "accessModes": modes,
        "capacity": size,
        "nfs": {"server": "nfs.example.org", "path": "/weights"},
        "claimRef": {"name": CLAIM, "namespace": NAMESPACE},
    }
    claim = {"accessModes": modes, "storageClassName": "", "volumeName": CLAIM, "resources": {"requests": size}}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": CLAIM}, "spec": volume},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": CLAIM, "namespace": NAMESPACE},
            "spec": claim,
        },
    ]

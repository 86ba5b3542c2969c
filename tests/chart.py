"""The chart as tests see it: rendered by the helm that this repository pins, read back as objects."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.cluster import tools
from vilam3.errors import PrerequisiteError

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "vilam3"
RELEASE = NAMESPACE = "vilam3"
KUBERNETES = "1.34.0"
BUILD_TIMEOUT_S = 1800  # of a test that may be the first to need helm

KSERVE = ("serving.kserve.io/v1beta1/InferenceService",)
KUBERAY = ("ray.io/v1/RayService", "ray.io/v1/RayCluster", "ray.io/v1/RayJob")
TRAINER = ("trainer.kubeflow.org/v1alpha1/TrainJob", "trainer.kubeflow.org/v1alpha1/TrainingRuntime")
KEDA = ("keda.sh/v1alpha1/ScaledObject",)
KUEUE = ("kueue.x-k8s.io/v1beta2/LocalQueue",)
KFP_NATIVE = ("pipelines.kubeflow.org/v2beta1/PipelineVersion",)
PROMETHEUS = ("monitoring.coreos.com/v1/ServiceMonitor",)

# Scenario to what its cluster has beyond Kubernetes itself.
SCENARIOS: Mapping[str, tuple[str, ...]] = {
    "gpu": (*KSERVE, *KEDA, *KFP_NATIVE, *PROMETHEUS),
    "one-gpu": (),
    "cpu-smoke": KSERVE,
    "ray": (*KUBERAY, *KUEUE, *KFP_NATIVE),
    "trainer": (*TRAINER, *KUEUE, *KFP_NATIVE),
    "airgap": (*KSERVE, *KEDA),
    "everything": (*KSERVE, *KUBERAY, *TRAINER, *KEDA, *KUEUE, *KFP_NATIVE, *PROMETHEUS),
}


@cache
def helm() -> Path:
    """The pinned helm, built at the first need; a test that needs it is skipped, never passed, where it cannot be."""
    try:
        return tools.path("helm")
    except PrerequisiteError as error:
        pytest.skip(f"SKIPPED: no helm, so the chart was not rendered: {error}")


def values_file(scenario: str) -> Path:
    """Values of a scenario."""
    return CHART / "ci" / f"{scenario}-values.yaml"


def run_helm(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run helm and return what came of it; the caller judges the exit code."""
    command = [str(helm()), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments


def template(
    scenario: str, *, apis: Sequence[str] | None = None, changes: Mapping[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """Render a scenario.

    Args:
        scenario: A key of `SCENARIOS`.
        apis: Kinds that the cluster has; None for those of the scenario.
        changes: Values on top of the scenario's, nested as in values.yaml.
    """
    apis = SCENARIOS[scenario] if apis is None else apis
    known = [word for api in apis for word in ("--api-versions", api)]
    return run_helm(
        "template",
        RELEASE,
        str(CHART),
        f"--namespace={NAMESPACE}",
        f"--kube-version={KUBERNETES}",
        f"--values={values_file(scenario)}",
        "--values=-",
        *known,
        stdin=json.dumps(changes or {}),
    )


def render(scenario: str, *, apis: Sequence[str] | None = None, changes: Mapping[str, Any] | None = None) -> str:
    """What helm renders; the test fails where it refuses."""
    ran = template(scenario, apis=apis, changes=changes)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def objects(rendered: str) -> list[dict[str, Any]]:
    """The objects of a rendering."""
    return [one for one in yaml.safe_load_all(rendered) if one]


def of_kind(rendered: str, kind: str) -> dict[str, dict[str, Any]]:
    """Objects of one kind by name."""
    return {one["metadata"]["name"]: one for one in objects(rendered) if one["kind"] == kind}


def pods(one: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every pod specification in an object: those of Deployments and Jobs, of KServe and of Ray."""
    found: list[dict[str, Any]] = []
    places: list[Any] = [one]
    while places:
        place = places.pop()
        if isinstance(place, Mapping):
            if "containers" in place:
                found.append(dict(place))
            places += place.values()
        elif isinstance(place, list):
            places += place
    return found

"""A cluster without Kubeflow Trainer, or with one that is too old, is told from any other refusal."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.api.conftest import Kubectl
from tests.cluster.api.launching.bench import Bench, until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(3600),
    pytest.mark.parametrize("operator", ["trainjob"], indirect=True),
]
KIND = "trainjobs.trainer.kubeflow.org"
PUBLISHED = "/openapi/v3/apis/trainer.kubeflow.org/v1alpha1"
NEW, OLD = "runtimePatches", "podTemplateOverrides"  # what a TrainJob has since 2.3, and had until then


@pytest.fixture
def definition(kubectl: Kubectl) -> Iterator[dict[str, Any]]:
    """Of a TrainJob; there again afterwards, as it was."""
    told: dict[str, Any] = json.loads(kubectl("get", "crd", KIND, "--output=json"))
    made = {"apiVersion": told["apiVersion"], "kind": told["kind"], "metadata": {"name": KIND}, "spec": told["spec"]}
    annotations = told["metadata"].get("annotations") or {}
    made["metadata"]["annotations"] = {key: one for key, one in annotations.items() if not key.startswith("kubectl")}
    kept = json.dumps(made)
    yield made
    _replace(kubectl, kept)
    until(lambda: NEW in _published(kubectl), "the kind is not served again")


def _replace(kubectl: Kubectl, text: str) -> None:
    kubectl("delete", "crd", KIND, "--ignore-not-found", "--wait=true")
    kubectl("create", "--filename=-", stdin=text)
    until(lambda: _is_established(kubectl), "the kind is not known")


def _is_established(kubectl: Kubectl) -> bool:
    status = json.loads(kubectl("get", "crd", KIND, "--output=json")).get("status") or {}
    return any(one["type"] == "Established" and one["status"] == "True" for one in status.get("conditions") or ())


def _published(kubectl: Kubectl) -> dict[str, Any]:
    """Fields of a TrainJob's spec, as the server tells its clients."""
    schemas = json.loads(kubectl("get", "--raw", PUBLISHED))["components"]["schemas"]
    found: dict[str, Any] = next(
        (one["properties"]["spec"]["properties"] for name, one in schemas.items() if name.endswith(".TrainJob")), {}
    )
    return found


@pytest.fixture
def of_an_older_trainer(definition: dict[str, Any], kubectl: Kubectl) -> None:
    """The field of today has the name of before."""
    fields = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    fields[OLD] = fields.pop(NEW)
    _replace(kubectl, json.dumps(definition))
    until(lambda: OLD in (found := _published(kubectl)) and NEW not in found, "the older kind is not served")


def _doctor(kubeconfig: Path) -> dict[str, Any]:
    """What it finds of Trainer, as the cluster's administrator."""
    command = [sys.executable, "-m", "vilam3", "doctor", "--cluster", "--need", "trainer", "--json"]
    environment = {"KUBECONFIG": str(kubeconfig), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    found: dict[str, Any] = next(one for one in json.loads(ran.stdout)["findings"] if "trainer" in one["name"])
    assert ran.returncode == 2
    return found


def test_a_trainer_that_is_older_is_named_by_what_it_has(
    bench: Bench, kubeconfig: Path, of_an_older_trainer: None
) -> None:
    assert of_an_older_trainer is None
    launcher = bench.start("run-1")
    assert launcher.code() == 2
    assert launcher.said(f"TrainJob has no {NEW}, since trainer is older than 2.3.0")
    assert launcher.said(OLD)
    found = _doctor(kubeconfig)
    assert found["state"] == "fail"
    assert f"has no {NEW}" in found["sentence"]


def test_a_cluster_without_trainer_says_so(
    bench: Bench, kubeconfig: Path, definition: dict[str, Any], kubectl: Kubectl
) -> None:
    assert definition["metadata"]["name"] == KIND
    kubectl("delete", "crd", KIND, "--wait=true")
    launcher = bench.start("run-1")
    assert launcher.code() == 2
    assert launcher.said("serves no trainer.kubeflow.org/v1alpha1/TrainJob")
    assert launcher.said("install trainer 2.3.0 or newer")
    assert "no trainer.kubeflow.org/v1alpha1/TrainJob" in _doctor(kubeconfig)["sentence"]
    launcher.process.wait()


def test_a_cluster_that_is_new_enough_has_its_kinds(bench: Bench, kubeconfig: Path) -> None:
    """Only its controller is missing here."""
    bench.start("run-1").await_words("queued")
    found = _doctor(kubeconfig)
    assert "has its kinds, but its controller kubeflow-trainer-controller-manager is not there" in found["sentence"]

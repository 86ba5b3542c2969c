"""Install, upgrade, roll back, uninstall: on the real API server, with the kinds of the operators."""

import base64
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from tests.chart import CHART, NAMESPACE, RELEASE, SCENARIOS, objects, of_kind, render
from tests.cluster.api.conftest import PIPELINES, Release
from tests.cluster.api.inventory import inventory
from tests.contract.test_chart_values import BROKEN
from vilam3.errors import ClusterError

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
Kubectl = Callable[..., str]
BEFORE = "0.0.9"
MOST_BYTES = 1 << 20  # of a Secret, in which helm keeps a revision
COLLECT_S = 600


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_server_finds_nothing_wrong(scenario: str, kubectl: Kubectl, namespace: str) -> None:
    """Every object passes strict validation: no unknown field, no duplicate, no wrong type."""
    rendered = render(scenario)
    accounts = yaml.safe_dump_all(of_kind(rendered, "ServiceAccount").values())  # a pod is refused without its own
    kubectl("apply", "--server-side", "--filename=-", stdin=accounts)
    told = _validate(kubectl, rendered)
    assert len(told.split()) == len(objects(rendered))
    assert namespace == NAMESPACE


def test_the_server_does_look(kubectl: Kubectl, namespace: str) -> None:
    """A field that KServe does not know is refused, deep in a service as well."""
    service = of_kind(render("gpu"), "InferenceService")[f"{RELEASE}-vlm"]
    service["spec"]["predictor"]["containers"][0]["resources"]["limit"] = {}
    with pytest.raises(ClusterError, match=r"limit"):
        _validate(kubectl, yaml.safe_dump(service))
    assert namespace == NAMESPACE


def _validate(kubectl: Kubectl, rendered: str) -> str:
    return kubectl(
        "apply",
        "--dry-run=server",
        "--server-side",
        "--validate=strict",
        "--output=name",
        "--filename=-",
        stdin=rendered,
    )


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_release_comes_and_goes(scenario: str, release: Release, kubectl: Kubectl) -> None:
    """Everything that was rendered is there, and after uninstalling nothing is."""
    before = inventory(kubectl)
    ran = release.apply(scenario)
    assert ran.returncode == 0, ran.stderr
    assert "IS IT UP?" in ran.stdout
    there = inventory(kubectl)
    for one in objects(release.manifest()):
        place = one["metadata"].get("namespace", "")
        assert f"{one['kind']} {place}/{one['metadata']['name']}" in there
    assert release.run("uninstall", RELEASE).returncode == 0
    assert _left(kubectl, before) == set()


def _left(kubectl: Kubectl, before: set[str]) -> set[str]:
    """What is there that was not, once the garbage is collected."""
    until = time.monotonic() + COLLECT_S
    while (left := inventory(kubectl) - before) and time.monotonic() < until:
        time.sleep(2)
    return left


def _previous(folder: Path) -> Path:
    """The chart as it might have been a version ago: there is no released one yet.

    Its graph and its disruption budgets are missing, and an expert is, so that an upgrade has something to add.
    """
    chart = folder / "vilam3"
    shutil.copytree(CHART, chart)
    told = (chart / "Chart.yaml").read_text("utf-8")
    now = yaml.safe_load(told)["version"]
    (chart / "Chart.yaml").write_text(told.replace(f"ersion: {now}", f"ersion: {BEFORE}"), "utf-8")
    for compiled in (chart / "files" / "pipelines").rglob("*.yaml"):
        compiled.write_text(compiled.read_text("utf-8").replace(f":{now}", f":{BEFORE}"), "utf-8")
    for kind in (chart / "templates" / "graph").glob("*.yaml"):  # what is included elsewhere stays
        kind.unlink()
    for budget in (chart / "templates").rglob("poddisruptionbudget*.yaml"):
        budget.unlink()
    values = chart / "values.yaml"
    values.write_text(values.read_text("utf-8").replace("replicas: {min: 0, max: 4}", "replicas: {min: 1, max: 4}"))
    return chart


def _images(kubectl: Kubectl) -> set[str]:
    told = json.loads(kubectl("get", "deployments,statefulsets", f"--namespace={NAMESPACE}", "--output=json"))
    return {
        container["image"]
        for one in told["items"]
        for container in one["spec"]["template"]["spec"]["containers"]
    }  # fmt: skip


@pytest.mark.parametrize("scenario", ["cpu-smoke", "gpu", "one-gpu"])
def test_a_release_is_upgraded_and_rolled_back(
    scenario: str, release: Release, kubectl: Kubectl, tmp_path: Path
) -> None:
    """No field that cannot be changed stands in the way, and the earlier version comes back as it was."""
    ran = release.apply(scenario, chart=_previous(tmp_path))
    assert ran.returncode == 0, ran.stderr
    before, images = inventory(kubectl), _images(kubectl)
    assert all(image.endswith(f":{BEFORE}") for image in images)
    ran = release.apply(scenario)
    assert ran.returncode == 0, ran.stderr
    assert not _images(kubectl) & images
    if scenario != "one-gpu":
        assert f"InferenceGraph {NAMESPACE}/{RELEASE}-graph" in inventory(kubectl) - before
    assert release.run("rollback", RELEASE, "1").returncode == 0
    assert _images(kubectl) == images
    assert _without_history(_settled(kubectl, before)) == _without_history(before)
    assert [one["status"] for one in release.revisions()] == ["superseded", "superseded", "deployed"]
    assert release.run("uninstall", RELEASE).returncode == 0


def _settled(kubectl: Kubectl, wanted: set[str]) -> set[str]:
    """The inventory once what an upgrade took away is collected."""
    until = time.monotonic() + COLLECT_S
    while _without_history(found := inventory(kubectl)) != _without_history(wanted) and time.monotonic() < until:
        time.sleep(2)
    return found


def _without_history(found: set[str]) -> set[str]:
    """Without helm's revisions and what controllers name by chance."""
    theirs = ("Secret ", "ReplicaSet ", "Pod ", "ControllerRevision ")
    return {one for one in found if not one.startswith(theirs)}


def test_the_same_again_changes_nothing(release: Release, kubectl: Kubectl) -> None:
    assert release.apply("gpu").returncode == 0
    names = _versions(kubectl)
    generations = _generations(kubectl)
    assert release.apply("gpu").returncode == 0
    assert _versions(kubectl) == names
    assert _generations(kubectl) == generations
    assert release.run("uninstall", RELEASE).returncode == 0


def _versions(kubectl: Kubectl) -> set[str]:
    return set(kubectl("get", "pipelineversions", f"--namespace={PIPELINES}", "--output=name").split())


def _generations(kubectl: Kubectl) -> Mapping[str, int]:
    kinds = "deployments,inferenceservices,inferencegraphs,scaledobjects,servingruntimes,networkpolicies"
    told = json.loads(kubectl("get", kinds, f"--namespace={NAMESPACE}", "--output=json"))["items"]
    return {f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["generation"] for one in told}


def test_another_image_is_another_version_of_the_pipelines(release: Release, kubectl: Kubectl) -> None:
    """KFP's versions cannot be changed, so an upgrade brings new ones and takes the old ones away."""
    assert release.apply("gpu").returncode == 0
    before = _versions(kubectl)
    assert (
        release.apply(
            "gpu", changes={"image": {"registry": "registry.example.org/radiology", "tag": "next"}}
        ).returncode
        == 0
    )
    after = _versions(kubectl)
    assert len(before) == len(after) == 2
    assert not before & after
    assert release.run("uninstall", RELEASE).returncode == 0


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_values_file_leaves_nothing(what: str, release: Release, kubectl: Kubectl) -> None:
    before = inventory(kubectl)
    changes, words = BROKEN[what]
    ran = release.apply("gpu", changes=dict(changes))
    assert ran.returncode != 0
    assert [word for word in words if word not in ran.stderr] == [], ran.stderr
    assert inventory(kubectl) == before


def test_a_revision_fits_into_a_secret(release: Release, kubectl: Kubectl) -> None:
    """Helm keeps chart, values and manifest of each revision in one."""
    assert release.apply("everything").returncode == 0
    kept = json.loads(kubectl("get", "secrets", "--selector=owner=helm", f"--namespace={NAMESPACE}", "--output=json"))
    sizes = [sum(len(base64.b64decode(value)) for value in one["data"].values()) for one in kept["items"]]
    assert sizes
    assert max(sizes) < MOST_BYTES // 2, sizes
    assert release.run("uninstall", RELEASE).returncode == 0

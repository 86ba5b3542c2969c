"""Values: what the file has, the schema knows; every one has an effect; ten broken files give ten clear refusals."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.chart import BUILD_TIMEOUT_S, CHART, SCENARIOS, render, template

pytestmark = pytest.mark.timeout(BUILD_TIMEOUT_S)
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text("utf-8"))
FREE = ("experts", "monitoring.labels", "accelerator.nodeSelector")  # the installation chooses the keys
# Where the rule that follows from a kind of value does not find another valid one.
OTHERS: Mapping[str, Any] = {
    "accelerator.tolerations": [{"key": "other", "operator": "Exists"}],
    "autoscaling.prometheus": "http://other.example.org:9090",
    "image.pullSecrets": ["other"],
    "mlflow.artifacts": "s3://other/place",
    "mlflow.uri": "http://other.example.org:1234",
    "networkPolicy.clients": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
    "networkPolicy.scrapers": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
    "networkPolicy.pacs.peers": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
    "networkPolicy.sources.peers": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
    "networkPolicy.sources.ports": [1234],
    "networkPolicy.storage.peers": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
    "networkPolicy.storage.ports": [1234],
    "pipelines.endpoint": "http://other.example.org:1234",
    "pipelines.intake.schedule": "0 3 * * *",
    "pipelines.schedule": "0 0 3 * * 0",
    "pacs.segmentation": "binary",
    "pacs.url": "http://other.example.org:1234/dicom-web",
    "serving.mode": "single",
    "serving.tracesEndpoint": "http://other.example.org:4318",
    "sources.buckets": ["other"],
    "sources.hosts": ["other.example.org"],
    "sources.networks": ["192.0.2.0/24"],
    "storage.endpoint": "https://other.example.org",
    "storage.studies": "s3://other/place",
    "training.job.checkpoints": "s3://other/place",
    "training.job.stage": "stage3_instruct",
    "training.network.env": {"NCCL_DEBUG": "INFO"},
    "training.network.resources": {"rdma/ib": 2},
    "training.shmSize": "1Gi",
    "vlm.engine": "vllm",
    "vlm.engineOptions": {"enforce_eager": True},
    "vlm.model": "s3://other/place",
}


def _leaves(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        path = f"{above}{name}"
        if isinstance(value, dict) and value and path not in FREE:
            yield from _leaves(value, f"{path}.")
        elif path not in FREE:
            yield path, value


LEAVES = dict(_leaves({name: value for name, value in DEFAULTS.items() if name != "experts"}))


def _resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in node:
        found: Mapping[str, Any] = SCHEMA["definitions"][node["$ref"].rpartition("/")[2]]
        return {**found, **{key: value for key, value in node.items() if key != "$ref"}}
    return node


def test_the_file_and_the_schema_name_the_same_values() -> None:
    _compare(DEFAULTS, SCHEMA, "")


def _compare(values: Mapping[str, Any], schema: Mapping[str, Any], above: str) -> None:
    known = {name: _resolved(node) for name, node in schema["properties"].items() if name != "global"}
    assert set(values) == set(known), above
    for name, value in values.items():
        path = f"{above}{name}"
        if "properties" in known[name] and path not in FREE:
            _compare(value, known[name], f"{path}.")


def test_the_schema_is_closed_and_explains_itself() -> None:
    for path, node in _objects(SCHEMA, "values"):
        assert node.get("additionalProperties") is not True, path
        if "properties" in node and path.partition(".")[0] != "peers":
            assert node["additionalProperties"] is False, path
    for path, node in _properties(SCHEMA, "values"):
        assert _resolved(node).get("description"), f"{path}: no description"


def _objects(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if node.get("type") == "object":
        yield path, node
    for name, below in {**node.get("properties", {}), **node.get("definitions", {})}.items():
        yield from _objects(below, f"{path}.{name}")


def _properties(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, below in node.get("properties", {}).items():
        yield f"{path}.{name}", below
        yield from _properties(_resolved(below), f"{path}.{name}")


def test_every_value_that_templates_use_exists() -> None:
    for path in (CHART / "templates").rglob("*"):
        for used in re.findall(r"\.Values((?:\.[A-Za-z0-9]+)+)", path.read_text("utf-8") if path.is_file() else ""):
            place: Any = DEFAULTS
            for name in used.strip(".").split("."):
                assert name in place, f"{path.name}: .Values{used}"
                place = place[name]


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    return {scenario: render(scenario) for scenario in SCENARIOS}


@pytest.mark.parametrize("path", LEAVES)
def test_every_value_has_an_effect(path: str, before: dict[str, str]) -> None:
    """Another value of it changes what some scenario renders, or is refused with a sentence about it."""
    other = OTHERS[path] if path in OTHERS else _other(path, LEAVES[path])
    for scenario in sorted(SCENARIOS, key=lambda name: name != "everything"):  # it sets what others leave alone
        for value in (other, LEAVES[path]):
            ran = template(scenario, changes=_nested(path, value))
            if ran.returncode and path.rpartition(".")[0] in ran.stderr:
                return
            if ran.returncode == 0 and ran.stdout != before[scenario]:
                return
    pytest.fail(f"{path}: no scenario renders differently with {other}")


@pytest.mark.parametrize(
    "name", ["runtime", "bundle", "needs", "model", "gpus", "replicas", "resources", "nodeSelector", "tolerations"]
)
def test_every_value_of_an_expert_has_an_effect(name: str, before: dict[str, str]) -> None:
    others = {
        "runtime": "torchxrayvision",
        "bundle": "other",
        "needs": ["cxr"],
        "model": "s3://other/place",
        "gpus": 2,
        "replicas": {"min": 2, "max": 7},
        "resources": {"cpu": "7", "memory": "7Gi"},
        "nodeSelector": {"other": "place"},
        "tolerations": [{"key": "other"}],
    }
    assert set(others) | {"enabled"} == set(SCHEMA["definitions"]["expert"]["properties"])
    assert render("gpu", changes={"experts": {"vista3d": {name: others[name]}}}) != before["gpu"]


def _other(path: str, value: Any) -> Any:  # noqa: ANN401 - whatever a values file holds
    """Another valid value."""
    node = _node(path)
    if isinstance(value, int | float):
        others = [not value] if isinstance(value, bool) else [value + 1, value - 1]
        return next(one for one in others if one <= node.get("maximum", one))
    if not isinstance(value, str):
        return [{"key": "other"}] if isinstance(value, list) else {"other": "place"}
    tried = ("7Gi", "7", "other", "other/image:1", "s3://other/place", "https://other.example.org", "example.org/other")
    allowed = node.get("enum", [one for one in tried if re.search(node.get("pattern", ""), one)])
    return next(one for one in reversed(allowed) if one != value)


def _node(path: str) -> Mapping[str, Any]:
    node: Mapping[str, Any] = SCHEMA
    for name in path.split("."):
        node = _resolved(node["properties"][name])
    return node


def _nested(path: str, value: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever a values file holds
    for name in reversed(path.split(".")):
        value = {name: value}
    found: dict[str, Any] = value
    return found


# What is wrong in each, and the words that the refusal must have: where, the rule, and what to do.
BROKEN: Mapping[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
    "a misspelt name": (
        {"vlm": {"modle": "s3://weights/vila-m3"}},
        ("vlm", "additional properties 'modle' not allowed"),
    ),
    "a wrong type": ({"serving": {"rounds": "four"}}, ("serving/rounds", "got string, want integer")),
    "a moving tag": ({"image": {"tag": "latest"}}, ("image/tag", "'not' failed")),
    "an unknown mode": ({"serving": {"mode": "knative"}}, ("serving/mode", "'kserve', 'ray', 'single'")),
    "no source of weights": ({"vlm": {"model": ""}}, ("vlm.model is empty", "give it in a values file")),
    "fewest above most": (
        {"experts": {"vista3d": {"replicas": {"min": 5, "max": 2}}}},
        ("experts.vista3d.replicas: min 5 is more than max 2", "raise max or lower min"),
    ),
    "two MLflows": ({"mlflow": {"uri": "https://mlflow.example.org"}}, ("mlflow.uri", "mlflow.enabled", "unset one")),
    "a plain password": ({"mlflow": {"postgresql": {"password": "hunter2"}}}, ("'password' not allowed",)),
    "an answer shorter than its expert": (
        {"serving": {"answerTimeoutSeconds": 60}},
        ("serving.answerTimeoutSeconds=60 is less than serving.expertTimeoutSeconds=240", "raise the first"),
    ),
    "an intake that has no records": (
        {"pipelines": {"intake": {"enabled": True}}},
        ("pipelines.intake.records is empty", "pipelines.retrain.corpus is empty"),
    ),
    "an intake without pipelines": (
        {"pipelines": {"enabled": False, "intake": {"enabled": True}}},
        ("pipelines.intake.enabled: it starts runs of the pipelines", "leave the intake off"),
    ),
    "a schedule by an alias": (
        {"pipelines": {"schedule": "0 0 2 * * 6", "retrain": {"baseCheckpoint": "models:/vilam3@base"}}},
        ("models:/ is looked up by the intake alone", "give a URI"),
    ),
    "a schedule without a corpus": (
        {"pipelines": {"schedule": "0 0 2 * * 6"}},
        ("pipelines.retrain.corpus is empty", "pipelines.retrain.baseCheckpoint is empty"),
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_values_file_is_refused_in_a_sentence(what: str) -> None:
    changes, words = BROKEN[what]
    ran = template("gpu", changes=changes)
    assert ran.returncode != 0
    assert [word for word in words if word not in ran.stderr] == [], ran.stderr


MISSING: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    "gpu": ("InferenceService", {}, "KServe"),
    "ray": ("RayService", {}, "KubeRay"),
    "everything": ("ScaledObject", {}, "KEDA"),
}


@pytest.mark.parametrize("scenario", MISSING)
def test_a_cluster_without_an_operator_is_told_before_anything_is_sent(scenario: str) -> None:
    kind, changes, operator = MISSING[scenario]
    ran = template(scenario, apis=(), changes=changes)
    assert f"no {kind} of" in ran.stderr
    assert f"install {operator}" in ran.stderr
    assert "infra/platform/README.md" in ran.stderr


def test_all_problems_are_told_at_once() -> None:
    ran = template("gpu", changes={"vlm": {"model": ""}, "image": {"registry": ""}, "mlflow": {"uri": "http://a"}})
    assert ran.stderr.count("\n  * ") == 3

"""The InferenceGraph of the chart is the one that the program generates, and it ends."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from serving.wire import MOST_ROUNDS
from tests.chart import BUILD_TIMEOUT_S, CHART, RELEASE, of_kind, render
from vilam3.graph import MODEL, inference_graph

pytestmark = pytest.mark.timeout(BUILD_TIMEOUT_S)


def _nodes(rendered: str) -> Mapping[str, Any]:
    nodes: Mapping[str, Any] = of_kind(rendered, "InferenceGraph")[f"{RELEASE}-graph"]["spec"]["nodes"]
    return nodes


def _url(part: str) -> str:
    return f"http://{RELEASE}-{part}-predictor.vilam3.svc"


@pytest.mark.parametrize("rounds", [1, 4, 8])
def test_the_chart_unrolls_what_the_program_generates(rounds: int) -> None:
    urls = {MODEL: _url("vlm"), **{name.upper(): _url(name) for name in ("brats", "cxr", "vista3d")}}
    generated = inference_graph(urls, rounds=rounds)["spec"]["nodes"]
    assert _nodes(render("gpu", changes={"serving": {"rounds": rounds}})) == generated


def test_without_experts_there_is_only_the_model() -> None:
    off = {name: {"enabled": False} for name in ("brats", "cxr", "vista3d")}
    generated = inference_graph({MODEL: _url("vlm")}, rounds=4)["spec"]["nodes"]
    assert _nodes(render("gpu", changes={"experts": off})) == generated


@pytest.mark.parametrize("scenario", ["gpu", "cpu-smoke", "airgap", "everything"])
def test_no_way_through_the_graph_comes_back(scenario: str) -> None:
    _assert_acyclic(_nodes(render(scenario)), "root", ())


def _assert_acyclic(nodes: Mapping[str, Any], name: str, above: tuple[str, ...]) -> None:
    assert name not in above, f"{' -> '.join(above)} -> {name}"
    for step in nodes[name]["steps"]:
        if "nodeName" in step:
            _assert_acyclic(nodes, step["nodeName"], (*above, name))


def test_the_graph_asks_the_enabled_experts_and_services_that_exist() -> None:
    rendered = render("airgap")
    nodes = _nodes(rendered)
    assert [step["name"] for step in nodes["experts"]["steps"]] == ["brats", "vista3d", "pass"]
    services = of_kind(rendered, "InferenceService")
    for step in [*nodes["root"]["steps"], *nodes["experts"]["steps"]]:
        if "serviceUrl" in step:
            host = re.match(r"http://(.+)-predictor\.vilam3\.svc/v1/graph", step["serviceUrl"])
            assert host, step
            assert host[1] in services


def test_the_router_waits_as_long_as_the_program() -> None:
    """Its own default of 60 s is less than one large CT takes."""
    spec = of_kind(render("gpu"), "InferenceGraph")[f"{RELEASE}-graph"]["spec"]
    words = of_kind(render("gpu"), "InferenceService")[f"{RELEASE}-orchestrator"]["spec"]["predictor"]["containers"][0][
        "args"
    ]
    told = {name: words[words.index(f"--{name}") + 1] for name in ("deadline-s", "expert-timeout-s")}
    assert spec["routerTimeouts"]["serverWrite"] == int(told["deadline-s"])
    assert spec["routerTimeouts"]["serviceClient"] == int(told["expert-timeout-s"])


def test_the_schema_knows_the_most_rounds() -> None:

    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    assert schema["properties"]["serving"]["properties"]["rounds"]["maximum"] == MOST_ROUNDS

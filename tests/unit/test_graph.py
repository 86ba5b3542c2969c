"""The generated InferenceGraph holds together for any number of rounds and experts."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.experts.bundles import write_small
from vilam3.cli.main import main
from vilam3.errors import UserError
from vilam3.experts.facts import ARGUMENTS
from vilam3.experts.trigger import PUBLISHED_ORDER
from vilam3.graph import PASSING_PATH, STEP_PATH, Timeouts, inference_graph, service_urls


def graph(rounds: int, experts: list[str]) -> dict[str, Any]:
    urls = service_urls(experts, release="r", namespace="n")
    made: dict[str, Any] = inference_graph(urls, rounds=rounds, namespace="n", timeouts=Timeouts(step_s=7, whole_s=9))
    return made


@given(rounds=st.integers(0, 8), experts=st.lists(st.sampled_from(["VISTA3D", "CXR", "BRATS", "DENOISE"]), unique=True))
def test_it_is_acyclic_and_every_step_leads_somewhere(rounds: int, experts: list[str]) -> None:
    nodes = graph(rounds, experts)["spec"]["nodes"]
    seen: list[str] = []

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, "a cycle"
        seen.append(name)
        for step in nodes[name]["steps"]:
            assert ("nodeName" in step) != ("serviceUrl" in step)
            if "nodeName" in step:
                walk(step["nodeName"], (*above, name))

    walk("root", ())
    assert set(seen) == set(nodes)
    assert len({step["name"] for step in nodes["root"]["steps"]}) == len(nodes["root"]["steps"])


@given(rounds=st.integers(1, 8))
def test_replies_stand_between_rounds_and_know_how_many_there_are(rounds: int) -> None:
    steps = graph(rounds, ["CXR"])["spec"]["nodes"]["root"]["steps"]
    assert [step["name"] for step in steps[::2]] == [f"reply-{number}" for number in range(rounds + 1)]
    assert all(step["serviceUrl"].endswith(f"{STEP_PATH}?rounds={rounds}") for step in steps[::2])
    assert all(step["data"] == "$response" for step in steps[1:])
    assert all("condition" in step for step in steps[1::2])


def test_a_switch_ends_in_a_step_that_always_matches() -> None:
    """KServe answers 404 where none does."""
    steps = graph(1, list(PUBLISHED_ORDER))["spec"]["nodes"]["experts"]["steps"]
    assert [step["name"] for step in steps] == [*(name.lower() for name in PUBLISHED_ORDER), "pass"]
    assert steps[-1]["condition"] == "@this"
    assert steps[-1]["serviceUrl"].endswith(PASSING_PATH)
    assert {step["dependency"] for step in steps} == {"Hard"}


def test_the_routers_own_minute_does_not_apply() -> None:
    assert graph(1, ["CXR"])["spec"]["routerTimeouts"] == {
        "serverRead": 9,
        "serverWrite": 9,
        "serverIdle": 9,
        "serviceClient": 7,
    }


def test_it_is_generated_from_the_experts_that_the_model_knows() -> None:
    assert set(PUBLISHED_ORDER) == set(ARGUMENTS)


def test_addresses_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    main(["graph", "--rounds", "1", "--vlm", "http://m:1", "--expert", "CXR=http://c:2/", "--expert", "BRATS"])
    made = json.loads(capsys.readouterr().out)
    urls = [step["serviceUrl"] for step in made["spec"]["nodes"]["experts"]["steps"]]
    own = "http://vilam3-brats-predictor.default.svc.cluster.local/v1/graph"
    assert urls == ["http://c:2/v1/graph", own, "http://m:1/v1/graph/pass"]
    assert "namespace" not in made["metadata"]


def test_the_experts_of_a_directory_can_be_meant_added_ones_included(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_small(tmp_path / "vista3d")
    write_small(tmp_path / "denoise")
    main(["graph", "--rounds", "1", "--experts", str(tmp_path)])
    steps = json.loads(capsys.readouterr().out)["spec"]["nodes"]["experts"]["steps"]
    assert [step["name"] for step in steps] == ["vista3d", "denoise", "pass"]


@pytest.mark.parametrize(
    "wrong", [["--rounds", "9"], ["--expert", "CXR=ftp://x"], ["--expert", "=http://x"], ["--vlm", "x"]]
)
def test_what_makes_no_graph_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", *wrong]) == UserError.exit_code
    assert wrong[0] in capsys.readouterr().err

"""The graph as it is deployed: the model, three experts and orchestrators as processes of their own, on one store."""

import concurrent.futures
import contextlib
import gzip
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest

from serving import metrics
from tests.e2e.kserve_router import routed
from tests.e2e.serving_fixture import Served, served, slowest_probe_s
from tests.unit.serving.live import free_port
from vilam3.graph import inference_graph

pytestmark = pytest.mark.e2e
EXPERT_S = 0.3
EXPERTS = ("VISTA3D", "CXR", "BRATS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The running services."""

    folder: Path
    store: str
    vlm: Served
    experts: dict[str, Served]
    orchestrator: Served

    def urls(self) -> dict[str, str]:
        """As the generator of the graph takes them."""
        return {"vlm": self.vlm.url, **{name: expert.url for name, expert in self.experts.items()}}


def orchestrator_command(vlm: Served, experts: dict[str, Served], store: str) -> list[str]:
    urls = [word for name, expert in experts.items() for word in ("--expert-url", f"{name}={expert.url}")]
    bounds = ["--warmup-s", "2", "--expert-timeout-s", "20", "--deadline-s", "40", "--no-cache"]
    named = ["--vlm", vlm.url, "--studies", store, "--port", "PORT"]
    return ["vilam3", "serve", "--role", "orchestrator", *named, *urls, *bounds]


def expert_command(name: str, store: str, seconds: float = EXPERT_S) -> list[str]:
    asked = ["--role", "expert", "--expert", name, "--studies", store, "--expert-s", str(seconds), "--holds-processor"]
    return ["tests.e2e.serving_process", "PORT", *asked]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    folder = tmp_path_factory.mktemp("graph")
    store = f"file://{folder}/studies"
    with contextlib.ExitStack() as running:

        def start(name: str, command: list[str]) -> Served:
            (folder / name).mkdir()
            return running.enter_context(served(folder / name, command))

        vlm = start(
            "vlm", ["tests.e2e.serving_process", "PORT", "--role", "vlm", "--studies", store, "--token-s", "0.01"]
        )
        experts = {name: start(name, expert_command(name, store)) for name in EXPERTS}
        orchestrator = start("orchestrator", orchestrator_command(vlm, experts, store))
        yield Graph(folder=folder, store=store, vlm=vlm, experts=experts, orchestrator=orchestrator)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
def volume() -> bytes:
    voxels = np.linspace(-1000, 400, 480).reshape(8, 10, 6).astype(np.int16)
    content: bytes = nib.Nifti1Image(voxels, np.diag([-2.0, 2.0, 3.0, 1.0])).to_bytes()
    return content


def uploaded(client: httpx.Client, served_: Served, volume: bytes) -> dict[str, Any]:
    response = client.post(f"{served_.url}/v1/studies", files={"file": ("ct.nii", volume)})
    assert response.status_code == 201, response.text
    return dict(response.json())


def question(study_id: str, text: str = "Is there a hepatic tumor?", **extra: object) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": f"study://{study_id}"}}
    return {"messages": [{"role": "user", "content": [image, {"type": "text", "text": text}]}], **extra}


def events(client: httpx.Client, url: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with client.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


def test_a_question_comes_back_streamed_with_the_experts_finding(
    graph: Graph, client: httpx.Client, volume: bytes
) -> None:
    study = uploaded(client, graph.orchestrator, volume)
    chunks = list(events(client, graph.orchestrator.url, question(study["id"])))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "yes"
    typed = [chunk["vilam3"] for chunk in chunks if "vilam3" in chunk]
    told = [event["event"] for event in typed if event["event"].startswith("expert")]
    assert [event for event in told if event != "expert.progress"] == ["expert.started", "expert.finished"]
    answer = typed[-1]
    assert answer["provenance"]["model_digest"] == "d" * 64
    (call,) = answer["expert_calls"]
    assert call["measurements"] == [{"label": "hepatic tumor", "quantity": "volume", "value": 1.5, "unit": "ml"}]
    assert client.get(graph.orchestrator.url + call["overlay_url"]).content.startswith(b"\x89PNG")
    mask = nib.Nifti1Image.from_bytes(gzip.decompress(client.get(graph.orchestrator.url + call["mask_url"]).content))
    assert np.allclose(mask.affine, np.diag([-2.0, 2.0, 3.0, 1.0]))
    client.delete(f"{graph.orchestrator.url}/v1/studies/{study['id']}")
    assert not list((graph.folder / "studies").rglob(f"{study['id']}*"))


def test_every_role_shows_its_numbers_and_its_card(graph: Graph, client: httpx.Client) -> None:
    for running in (graph.orchestrator, graph.vlm, *graph.experts.values()):
        shown = client.get(f"{running.url}/metrics").text
        for name in metrics.NAMES:
            assert f"# TYPE {name.removesuffix('_total')}" in shown, f"{running.url} {name}"
    assert 'vilam3_queue_depth{expert="CXR"} 0.0' in client.get(f"{graph.orchestrator.url}/metrics").text
    assert 'vilam3_requests_total{outcome="answered"}' in client.get(f"{graph.vlm.url}/metrics").text
    card = client.get(f"{graph.experts['VISTA3D'].url}/v1/models/vista3d").json()
    assert (card["id"], card["ready"], card["expert"]) == ("vista3d", True, "VISTA3D")


def test_an_expert_speaks_both_of_kserves_protocols(graph: Graph, client: httpx.Client, volume: bytes) -> None:
    study = uploaded(client, graph.orchestrator, volume)
    url = graph.experts["VISTA3D"].url
    asked = {"study": study["reference"], "argument": "hepatic tumor"}
    (first,) = client.post(f"{url}/v1/models/vista3d:predict", json={"instances": [asked]}).json()["predictions"]
    assert first["mask"].startswith(study["reference"])
    inputs = [{"name": name, "shape": [1], "datatype": "BYTES", "data": [value]} for name, value in asked.items()]
    inputs.append({"name": "slice_index", "shape": [1], "datatype": "INT64", "data": [2]})
    response = client.post(f"{url}/v2/models/vista3d/infer", json={"inputs": inputs})
    assert response.status_code == 200, response.text
    second = json.loads(response.json()["outputs"][0]["data"][0])
    assert (second["text"], second["provenance"]["slice_index"]) == (first["text"], 2)
    wrong = client.post(f"{url}/v1/models/vista3d:predict", json={"instances": [{"study": "tenants/x"}]})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (404, "not_found_error")


def test_probes_stay_fast_and_the_queue_is_bounded_while_an_expert_computes(
    graph: Graph, client: httpx.Client, volume: bytes
) -> None:
    """One call runs, sixteen wait, the others are told when to come back."""
    study, expert = uploaded(client, graph.orchestrator, volume), graph.experts["VISTA3D"]
    body = {"instances": [{"study": study["reference"], "argument": "hepatic tumor"}]}

    def ask(_: int) -> httpx.Response:
        return httpx.post(f"{expert.url}/v1/models/vista3d:predict", json=body, timeout=60, trust_env=False)

    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(ask, number) for number in range(30)]
        time.sleep(0.3)
        slowest_s = slowest_probe_s(expert.url, for_s=2.0)
        answers = [one.result() for one in asked]
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert 1 <= statuses.count(429) <= 13
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)
    assert slowest_s < 0.1


def test_the_generated_graph_answers_as_the_orchestrator_does(
    graph: Graph, client: httpx.Client, volume: bytes
) -> None:
    """KServe's router walks the graph over the very same processes."""
    study = uploaded(client, graph.orchestrator, volume)
    questions = ["Is there a hepatic tumor?", "the pancreas?", "Is the chest clear?", "forever"]
    manifest = inference_graph(graph.urls(), rounds=2)
    with routed(manifest, graph.folder / "router.log") as url:
        for text in questions:
            body = question(study["id"], text, max_rounds=2)
            here = client.post(f"{graph.orchestrator.url}/v1/chat/completions", json=body).json()
            there = client.post(url, json=body)
            assert there.status_code == 200, there.text
            assert _comparable(there.json()) == _comparable(here), text
        with_reference = {
            "messages": [{"role": "user", "content": "Is there a hepatic tumor?"}],
            "study": study["reference"],
        }
        assert client.post(url, json=with_reference).json()["answer"] == "yes"
        alone = {"messages": [{"role": "user", "content": "hello"}]}
        assert client.post(url, json=alone).json()["choices"][0]["message"]["content"] == "no"
        assert client.post(url, json={"messages": []}).status_code == 400
        assert client.post(url, json={**alone, "stream": True}).json()["error"]["message"].startswith("stream: a graph")


def test_a_graph_without_an_expert_says_so(graph: Graph, client: httpx.Client, volume: bytes) -> None:
    study = uploaded(client, graph.orchestrator, volume)
    urls = {name: url for name, url in graph.urls().items() if name != "VISTA3D"}
    with routed(inference_graph(urls, rounds=2), graph.folder / "router.log") as url:
        answer = client.post(url, json=question(study["id"])).json()
    assert answer["answer"] == "unknown"
    assert answer["notes"] == ["The expert model VISTA3D could not be used: no step of this graph asks it."]


def test_a_graph_cannot_degrade_for_an_expert_it_cannot_reach(
    graph: Graph, client: httpx.Client, volume: bytes
) -> None:
    """KServe's router fails the whole request; the orchestrator answers and says so."""
    study = uploaded(client, graph.orchestrator, volume)
    urls = {**graph.urls(), "VISTA3D": f"http://127.0.0.1:{free_port()}"}
    with routed(inference_graph(urls, rounds=1), graph.folder / "router.log") as url:
        response = client.post(url, json=question(study["id"]))
    assert (response.status_code, "connection refused" in response.text) == (500, True)


def _comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs from one asking to the next: names, times, where pictures lie."""
    own = ("overlay_url", "mask_url", "mask_reference", "seconds")
    calls = [{name: value for name, value in call.items() if name not in own} for call in answer["expert_calls"]]
    bare = {name: value for name, value in answer.items() if name not in {"id", "created", "choices"}}
    (choice,) = answer["choices"]
    said = (choice["message"]["content"], choice["finish_reason"])
    return {**bare, "expert_calls": calls, "said": said}


def test_an_expert_killed_while_it_computes_gives_a_visibly_degraded_answer(
    graph: Graph, client: httpx.Client, volume: bytes, tmp_path: Path
) -> None:
    (tmp_path / "expert").mkdir()
    (tmp_path / "orchestrator").mkdir()
    with served(tmp_path / "expert", expert_command("VISTA3D", graph.store, seconds=20)) as expert:
        command = orchestrator_command(graph.vlm, {**graph.experts, "VISTA3D": expert}, graph.store)
        with served(tmp_path / "orchestrator", command) as orchestrator:
            study = uploaded(client, orchestrator, volume)
            seen: list[str] = []
            for chunk in events(client, orchestrator.url, question(study["id"])):
                seen.append(chunk.get("vilam3", {}).get("event", ""))
                if seen[-1] == "expert.started":
                    until(lambda: expert.begun_experts() > 0)
                    expert.process.kill()
                last = chunk
            assert "expert.failed" in seen
            note = "The expert model VISTA3D could not be used: its service broke off while it computed"
            assert last["vilam3"]["notes"][0].startswith(note)
            assert last["vilam3"]["answer"] == "unknown"
            again = client.post(f"{orchestrator.url}/v1/chat/completions", json=question(study["id"])).json()
            assert "did not take the question within 2 s" in again["choices"][0]["message"]["content"]


def test_a_caller_who_leaves_stops_the_model_within_a_second(graph: Graph, client: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "an essay, please"}]}
    stream = events(client, graph.orchestrator.url, body)
    for chunk in stream:
        if chunk["choices"][0]["delta"].get("content"):
            break
    stream.close()  # type: ignore[attr-defined]  # a generator
    until(lambda: _in_flight(client, graph.orchestrator) == _in_flight(client, graph.vlm) == 0, within_s=1.0)


def test_a_rolling_restart_under_load_loses_nothing(
    graph: Graph, client: httpx.Client, volume: bytes, tmp_path: Path
) -> None:
    """As a Deployment replaces a pod: the old one ends when the new one is ready."""
    study = uploaded(client, graph.orchestrator, volume)
    command = [*orchestrator_command(graph.vlm, graph.experts, graph.store), "--drain-s", "2"]
    addresses: list[str] = []
    statuses: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(trust_env=False, timeout=60) as http:
            while not stop.is_set():
                answer = http.post(f"{addresses[-1]}/v1/chat/completions", json=question(study["id"]))
                statuses.append(answer.status_code if answer.json().get("answer") == "yes" else 0)

    with contextlib.ExitStack() as running:
        olds: list[Served] = []
        for number in range(2):
            (tmp_path / str(number)).mkdir()
            olds.append(running.enter_context(served(tmp_path / str(number), command)))
            addresses.append(olds[-1].url)
            if number == 0:
                askers = [threading.Thread(target=ask) for _ in range(4)]
                for asker in askers:
                    asker.start()
                time.sleep(1)
        olds[0].process.send_signal(signal.SIGTERM)
        until(lambda: client.get(f"{olds[0].url}/v2/health/ready").status_code == 503, within_s=1.5)
        assert olds[0].process.wait(60) == 0
        before = len(statuses)
        until(lambda: len(statuses) > before + 4, within_s=30)
        stop.set()
        for asker in askers:
            asker.join(60)
    assert set(statuses) == {200}
    assert len(statuses) > 8


def test_an_orchestrator_without_its_model_is_not_ready_and_says_why(client: httpx.Client, tmp_path: Path) -> None:
    port = free_port()
    command = ["vilam3", "serve", "--role", "orchestrator", "--vlm", "http://127.0.0.1:9", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=log)  # noqa: S603 - our own
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _answers(client, url), within_s=60)
        ready = client.get(f"{url}/v2/health/ready")
        assert (ready.status_code, "no answer" in ready.json()["reason"]) == (503, True)
        assert client.get(f"{url}/v2/health/live").status_code == 200
        refused = client.post(f"{url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "hello"}]})
        assert refused.status_code == 503
    finally:
        process.terminate()
        assert process.wait(30) == 0


def _answers(client: httpx.Client, url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return client.get(f"{url}/v2/health/live").is_success
    return False


def _in_flight(client: httpx.Client, running: Served) -> float:
    (line,) = [
        line
        for line in client.get(f"{running.url}/metrics").text.splitlines()
        if line.startswith("vilam3_requests_in_flight ")
    ]
    return float(line.split()[1])


def until(reached: Callable[[], bool], *, within_s: float = 15.0) -> None:
    """Wait for it."""
    end = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)

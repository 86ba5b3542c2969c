"""The server as its users meet it: a process of its own, the stock `openai` client, signals."""

import base64
import concurrent.futures
import contextlib
import io
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from tests.e2e.serving_fixture import Served, served, slowest_probe_s
from tests.unit.data import dicom_files

pytestmark = pytest.mark.e2e
EXPERT_S = 1.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Replies take 20 ms a word; an expert takes seconds and holds the processor in Python code."""
    command = [
        "tests.e2e.serving_process",
        "PORT",
        "--expert-s",
        str(EXPERT_S),
        "--token-s",
        "0.02",
        "--holds-processor",
    ]
    with served(tmp_path_factory.mktemp("server"), command) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=30) as made:
        yield made


@pytest.fixture(scope="module")
def picture() -> str:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(stream, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def question(text: str, url: str) -> list[Any]:
    image = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [{"type": "text", "text": text}, image]}]


def test_the_stock_client_asks(client: openai.OpenAI, server: Served, picture: str) -> None:
    assert [model.id for model in client.models.list()] == ["vilam3"]
    assert client.models.retrieve("vilam3").id == "vilam3"
    answer = client.chat.completions.create(
        model="vilam3", messages=question("Is there a hepatic tumor?", picture), extra_body={"modality": "CT"}
    )
    assert answer.choices[0].message.content == "yes"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    assert answer.model_extra is not None
    assert answer.model_extra["notice"].startswith("Draft")
    (call,) = answer.choices[0].message.model_extra["expert_calls"]
    assert call["expert"] == "VISTA3D"
    assert httpx.get(server.url + call["overlay_url"], trust_env=False).content.startswith(b"\x89PNG")


def test_the_stock_client_streams(client: openai.OpenAI, picture: str) -> None:
    events, content = [], ""
    for chunk in client.chat.completions.create(
        model="vilam3", messages=question("Is there a hepatic tumor?", picture), stream=True
    ):
        content += chunk.choices[0].delta.content or ""
        events.append((chunk.model_extra or {}).get("vilam3", {}).get("event"))
    assert content == "yes"
    told = [event for event in events if event and event.startswith("expert") and event != "expert.progress"]
    assert told == ["expert.started", "expert.finished"]


def test_the_stock_client_gets_errors_it_knows(client: openai.OpenAI, picture: str) -> None:
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.chat.completions.create(model="other", messages=question("?", picture))
    with pytest.raises(openai.BadRequestError, match="slice 9") as refused:
        client.chat.completions.create(model="vilam3", messages=question("?", picture), extra_body={"slice_index": 9})
    assert refused.value.code == "data_error"


def test_kserve_answers_its_own_protocol_by_the_same_path(server: Served) -> None:
    def predict(instances: object) -> httpx.Response:
        return httpx.post(
            f"{server.url}/v1/models/vilam3:predict", json={"instances": instances}, timeout=30, trust_env=False
        )

    files = {"file": ("a.png", _png(), "image/png")}
    study = httpx.post(f"{server.url}/v1/studies", files=files, data={"modality": "CT"}, trust_env=False).json()
    (prediction,) = predict([{"question": "hepatic tumor?", "study": study["id"]}]).json()["predictions"]
    assert prediction["answer"] == "yes"
    assert prediction["expert_calls"][0]["provenance"]["study_digest"]
    assert predict([{"quesion": "?"}]).status_code == 400
    assert predict([{"question": "?", "study": "study-0"}]).status_code == 404
    for path in ("/", "/v2/health/live", "/v2/health/ready", "/v1/models/vilam3", "/metrics"):
        assert httpx.get(server.url + path, trust_env=False).status_code == 200


def test_probes_stay_fast_while_an_expert_computes(client: openai.OpenAI, server: Served, picture: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        before = server.begun_experts()
        # With store=False nothing is remembered, so that the expert really looks.
        asked = pool.submit(
            client.chat.completions.create, model="vilam3", messages=question("tumor?", picture), store=False
        )
        _until(lambda: server.begun_experts() > before)
        slowest_s = slowest_probe_s(server.url, for_s=EXPERT_S * 0.6)
        assert not asked.done()
        asked.result()
    assert slowest_s < 0.1


@pytest.mark.parametrize("streams", [False, True])
def test_when_the_caller_leaves_no_further_expert_starts(server: Served, picture: str, streams: bool) -> None:
    before = server.begun_experts()
    body = {"messages": question("forever", picture), "stream": streams, "store": False}
    with (
        contextlib.suppress(httpx.ReadTimeout),
        httpx.Client(timeout=0.4, trust_env=False) as caller,
        caller.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response,
    ):
        for chunk in response.iter_raw():
            if b"expert.started" in chunk:
                break
    _until(lambda: server.begun_experts() > before)
    time.sleep(2 * EXPERT_S)
    assert server.begun_experts() == before + 1


def test_nothing_of_a_patient_is_logged(server: Served, client: openai.OpenAI, tmp_path: Path) -> None:
    voxels_KHW = np.zeros((2, 6, 5), np.int16)
    files = [
        ("file", (f"{dicom_files.PATIENT}.dcm", path.read_bytes()))
        for path in dicom_files.series(tmp_path / "series", voxels_KHW).iterdir()
    ]
    study = httpx.post(f"{server.url}/v1/studies", files=files, trust_env=False).json()
    client.chat.completions.create(
        model="vilam3", messages=question(f"everything about {dicom_files.PATIENT}", f"study://{study['id']}")
    )
    httpx.post(f"{server.url}/v1/studies", files={"f": (dicom_files.PATIENT, b"Doe^Planted")}, trust_env=False)
    httpx.post(
        f"{server.url}/v1/models/vilam3:predict", content=b'{"instances": [{"Doe^Planted": 1}]}', trust_env=False
    )
    logged = server.err.read_text() + server.out.read_text()
    assert '"route": "/v1/studies"' in logged
    assert not [secret for secret in dicom_files.SECRETS if secret in logged]
    assert "Traceback" not in logged


def test_sigterm_answers_what_is_in_flight(tmp_path: Path, picture: str) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alpha-key-0123456789\n")
    command = ["tests.e2e.serving_process", "PORT", "--expert-s", "1"]
    with served(tmp_path, command, environment={"VILAM3_API_KEYS_FILE": str(keys)}) as running:
        base_url = f"{running.url}/v1"
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=base_url, api_key="wrong", max_retries=0).models.list()
        client = openai.OpenAI(base_url=base_url, api_key="alpha-key-0123456789", max_retries=0)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.chat.completions.create, model="vilam3", messages=question("tumor", picture))
            _until(lambda: running.begun_experts() > 0)
            running.process.send_signal(signal.SIGTERM)
            assert asked.result(30).choices[0].message.content is not None
        assert running.process.wait(30) == 0


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, format="PNG")
    return stream.getvalue()


def _until(reached: Callable[[], bool], *, within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)

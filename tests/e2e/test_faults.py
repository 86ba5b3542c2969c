"""What breaks around an orchestrator, and what its callers see: the answer says what it lacks, or ends soon.

The language model and the expert are processes of their own, which tests kill; the orchestrator is a real server on a
port of this process, so that its budget can be chosen per test.
"""

import contextlib
import io
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from serving import app as routes
from serving import metrics, orchestrator
from serving.answer import Budget, Service, Terms
from serving.tenants import Tenants
from tests.e2e.s3_server import s3_server
from tests.e2e.serving_fixture import Served, served
from tests.unit.serving.calls import asked, data_url
from tests.unit.serving.fakes import RuleEngine, SlowExperts
from tests.unit.serving.live import free_port, live
from vilam3.consultant import Consultant
from vilam3.objects import ObjectStore, open_store
from vilam3.s3 import S3Store
from vilam3.services.engine import RemoteEngine
from vilam3.services.experts import RemoteExperts
from vilam3.services.visit import Waits

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
EXPERT_S = 30.0
WAITS = Waits(warmup_s=3.0, total_s=20.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the orchestrators of these tests talk to."""

    store: str
    vlm: Served
    expert: Served


def vlm_command(port: str, store: str) -> list[str]:
    return ["tests.e2e.serving_process", port, "--role", "vlm", "--studies", store, "--token-s", "0.05"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    folder = tmp_path_factory.mktemp("faults")
    store = f"file://{folder}/studies"
    expert = ["tests.e2e.serving_process", "PORT", "--role", "expert", "--studies", store, "--expert-s", str(EXPERT_S)]
    for name in ("vlm", "expert"):
        (folder / name).mkdir()
    with (
        served(folder / "vlm", vlm_command("PORT", store)) as vlm,
        served(folder / "expert", expert) as running,
    ):
        yield Parts(store=store, vlm=vlm, expert=running)


@contextlib.contextmanager
def orchestrated(
    vlm: str, expert: str, *, objects: ObjectStore, waits: Waits = WAITS, budget: Budget | None = None
) -> Iterator[tuple[str, Service]]:
    """An orchestrator in front of these addresses."""
    known = orchestrator.Acquaintance(RemoteEngine(vlm, patience_s=waits.warmup_s))
    experts = RemoteExperts({"VISTA3D": expert}, waits=waits)
    terms = Terms(budget=budget or Budget(), remembers=False)
    service = orchestrator.service(known, experts, objects=objects, tenants=Tenants(), terms=terms)
    application = FastAPI()
    routes.install(application, service)
    known.begin()
    try:
        with live(application) as url:
            until(lambda: not known.lacking(), within_s=60)
            yield url, service
    finally:
        service.close()
        known.close()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=120) as made:
        yield made


@pytest.fixture(scope="module")
def volume() -> bytes:
    voxels = np.linspace(-1000, 400, 480).reshape(8, 10, 6).astype(np.int16)
    content: bytes = nib.Nifti1Image(voxels, np.diag([-2.0, 2.0, 3.0, 1.0])).to_bytes()
    return content


def uploaded(client: httpx.Client, url: str, volume: bytes) -> dict[str, Any]:
    response = client.post(f"{url}/v1/studies", files={"file": ("ct.nii", volume)})
    assert response.status_code == 201, response.text
    return dict(response.json())


def question(study: dict[str, Any], text: str = "Is there a hepatic tumor?", **extra: object) -> dict[str, Any]:
    return asked(text, f"study://{study['id']}", **extra)


def events(client: httpx.Client, url: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with client.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


def in_flight(client: httpx.Client, url: str) -> float:
    (line,) = [
        line for line in client.get(f"{url}/metrics").text.splitlines() if line.startswith(f"{metrics.IN_FLIGHT_NAME} ")
    ]
    return float(line.split()[1])


def until(reached: Any, *, within_s: float) -> None:  # noqa: ANN401 - a predicate
    end = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < end, f"did not happen within {within_s} s"
        time.sleep(0.02)


def test_an_expert_that_hangs_is_left_and_freed(parts: Parts, client: httpx.Client, volume: bytes) -> None:
    quick = replace(WAITS, total_s=2.0)
    with orchestrated(parts.vlm.url, parts.expert.url, objects=open_store(parts.store), waits=quick) as (url, _):
        began = time.monotonic()
        study = uploaded(client, url, volume)
        answer = client.post(f"{url}/v1/chat/completions", json=question(study)).json()
        assert time.monotonic() - began < 20
    assert answer["answer"] == "unknown"
    assert answer["notes"] == ["The expert model VISTA3D could not be used: it did not finish within 2 s."]
    until(lambda: in_flight(client, parts.expert.url) == 0, within_s=2.0)


def test_the_budget_of_all_experts_ends_one_that_computes(parts: Parts, client: httpx.Client, volume: bytes) -> None:
    budget = Budget(expert_seconds=1.5)
    with orchestrated(parts.vlm.url, parts.expert.url, objects=open_store(parts.store), budget=budget) as (url, _):
        answer = client.post(f"{url}/v1/chat/completions", json=question(uploaded(client, url, volume))).json()
    assert "may take together, 1.5 s, is used up" in answer["notes"][0]
    assert answer["answer"] == "unknown"
    until(lambda: in_flight(client, parts.expert.url) == 0, within_s=2.0)


def test_when_the_reader_leaves_model_and_expert_stop_within_a_second(
    parts: Parts, client: httpx.Client, volume: bytes
) -> None:
    with orchestrated(parts.vlm.url, parts.expert.url, objects=open_store(parts.store)) as (url, service):
        study, begun = uploaded(client, url, volume), parts.expert.begun_experts()
        stream = events(client, url, question(study))
        for chunk in stream:
            if chunk.get("vilam3", {}).get("event") == "expert.started":
                break
        until(lambda: parts.expert.begun_experts() > begun, within_s=10)
        assert in_flight(client, parts.expert.url) == 1
        stream.close()  # type: ignore[attr-defined]  # a generator
        until(lambda: in_flight(client, parts.expert.url) == 0, within_s=1.0)
        assert service.dialogues.in_flight == 0
    assert in_flight(client, parts.vlm.url) == 0


def test_an_engine_that_dies_in_the_middle_of_a_reply_is_named_soon(parts: Parts, client: httpx.Client) -> None:
    folder = parts.vlm.out.parent.parent / "dying"
    folder.mkdir()
    with (
        served(folder, vlm_command("PORT", parts.store)) as vlm,
        orchestrated(vlm.url, parts.expert.url, objects=open_store(parts.store)) as (url, service),
    ):
        began, last = 0.0, {}
        for chunk in events(client, url, {"messages": [{"role": "user", "content": "an essay, please"}]}):
            if not began and chunk.get("choices", [{}])[0].get("delta", {}).get("content"):
                began = time.monotonic()
                vlm.process.kill()
            last = chunk
        assert "no answer" in last["error"]["message"]
        assert last["error"]["type"] == "server_error"
        assert time.monotonic() - began < WAITS.warmup_s + 10
        until(lambda: service.dialogues.in_flight == 0, within_s=1.0)


def test_an_engine_that_comes_back_goes_on_where_it_died(parts: Parts, client: httpx.Client) -> None:
    """Decoding is greedy, so another process says the same words; the reader sees one reply without a seam."""
    folder, port = parts.vlm.out.parent.parent / "reborn", str(free_port())
    words = " ".join(f"finding{number}" for number in range(60))
    patient = replace(WAITS, warmup_s=120.0)
    with contextlib.ExitStack() as running:
        for name in ("first", "second"):
            (folder / name).mkdir(parents=True)
        vlm = running.enter_context(served(folder / "first", vlm_command(port, parts.store), port=port))
        url, _ = running.enter_context(
            orchestrated(vlm.url, parts.expert.url, objects=open_store(parts.store), waits=patient)
        )
        text, has_died = "", False
        for chunk in events(client, url, {"messages": [{"role": "user", "content": "an essay, please"}]}):
            text += chunk["choices"][0]["delta"].get("content", "")
            if not has_died and "finding9" in text:
                has_died = True
                vlm.process.kill()
                vlm.process.wait()
                running.enter_context(served(folder / "second", vlm_command(port, parts.store), port=port))
    assert text == words


def test_a_store_that_is_away_costs_the_experts_and_not_the_answer(
    parts: Parts, client: httpx.Client, volume: bytes, tmp_path: Path
) -> None:
    """A picture sent along is answered without experts; an uploaded study is refused in a sentence, and soon."""
    png = data_url(_png())
    with contextlib.ExitStack() as running, pytest.MonkeyPatch.context() as patch:
        s3 = running.enter_context(s3_server(tmp_path))
        for name, value in s3.environment().items():
            patch.setenv(name, value)
        store = S3Store("hospital")
        store._s3.create_bucket(Bucket="hospital")
        url, _ = running.enter_context(orchestrated(parts.vlm.url, parts.expert.url, objects=store))
        study = uploaded(client, url, volume)
        s3.process.terminate()
        s3.process.wait(30)
        began = time.monotonic()
        answer = client.post(f"{url}/v1/chat/completions", json=asked("tumor?", png, modality="CT"))
        assert (answer.status_code, answer.json()["answer"]) == (200, "unknown")
        assert "not in the store that experts read" in answer.json()["notes"][0]
        refused = client.post(f"{url}/v1/chat/completions", json=question(study))
        assert refused.status_code == 500
        assert "store" in refused.json()["error"]["message"]
        assert time.monotonic() - began < 90


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (32, 32)).save(stream, format="PNG")
    return stream.getvalue()


@contextlib.contextmanager
def alone(folder: Path, *, engine: RuleEngine | None = None) -> Iterator[tuple[str, Service]]:
    """One process's worth of endpoint in this process."""
    consultant = Consultant(engine=engine or RuleEngine(), experts=SlowExperts(), model_digest="d" * 64)
    service = Service.create(consultant, tenants=Tenants(), work=folder)
    application = FastAPI()
    routes.install(application, service)
    with live(application) as url:
        yield url, service
    service.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk to fill")
def test_a_full_disk_costs_what_would_be_kept_and_not_the_answer(client: httpx.Client, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    mount = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - of this machine
    if mount.returncode:
        pytest.skip(f"no small disk can be mounted here: {mount.stderr.decode().strip()}")
    try:
        with alone(disk) as (url, _):
            (disk / "full").write_bytes(bytes(48 << 10))
            body = asked("Is there a tumor?", data_url(_png()), modality="CT")
            for _ in range(8):
                answer = client.post(f"{url}/v1/chat/completions", json=body)
                assert (answer.status_code, answer.json()["answer"]) == (200, "yes"), answer.text
            upload = client.post(f"{url}/v1/studies", files={"file": ("ct.nii", bytes(200 << 10))})
            assert upload.status_code in {400, 500}
            assert upload.json()["error"]["message"]
            (disk / "full").unlink()
            assert client.post(f"{url}/v1/chat/completions", json=body).json()["notes"] == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)  # noqa: S603, S607 - likewise


def test_a_clock_that_jumps_ends_nothing_early_and_nothing_late(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deadlines, waits and seconds go by the clock that only runs forward."""
    with alone(tmp_path, engine=RuleEngine(token_s=0.02)) as (url, service):
        service.budget = Budget(deadline_s=30)
        real = time.time
        for jump_s in (86_400.0, -86_400.0):
            with monkeypatch.context() as patch:
                stream = events(client, url, asked("Is there a tumor?", data_url(_png()), modality="CT"))
                next(stream)
                patch.setattr(time, "time", lambda jump_s=jump_s: real() + jump_s)
                *_, last = stream
            answer = last["vilam3"]
            assert (answer["event"], answer["answer"], answer["provenance"]["ending"]) == ("answer", "yes", "answered")
            assert all(0 <= call["seconds"] < 30 for call in answer["expert_calls"])
        service.budget = Budget(deadline_s=0.2)
        essay = {"messages": [{"role": "user", "content": "an essay, please"}]}
        began = time.monotonic()
        assert client.post(f"{url}/v1/chat/completions", json=essay).json()["provenance"]["ending"] == "deadline"
        assert time.monotonic() - began < 5

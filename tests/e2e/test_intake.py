"""The intake with real processes, a real S3 server, and HTTP: one run for one content, and nothing lost by a kill."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import pytest
from cryptography.fernet import Fernet

from pipelines.intake_app import application
from pipelines.publish import Server
from pipelines.starts import HereStarts
from tests.e2e.s3_server import S3, s3_server
from tests.unit.intake.installation import PIPELINE, SAMPLES, TINY, Starter, event, intake
from tests.unit.pipelines.intake_service import SECRET, service_at
from tests.unit.pipelines.kfp_server import Handler, Kept
from tests.unit.serving.live import free_port, live
from vilam3.cli.main import main
from vilam3.intake.event import Digests

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
BUCKET, KEY = "data", "a-key-of-sixteen-or-more"
PROCESSES, EVENTS = 8, 100
READY_S = 120.0
# One process of several: asks so often, and prints the decisions. `dies` ends it in the middle of a start.
ASKER = """
import os, signal, sys
from pathlib import Path
from pipelines.starts import KfpStarts
from tests.unit.intake.installation import event
from vilam3.intake.event import Places
from vilam3.intake.intake import Intake, Terms
from vilam3.intake.turn import Times
from vilam3.objects import open_store

endpoint, folder, count, dies = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
places = Places(corpus="s3://data/corpora/one", base_checkpoint="s3://data/base", experts="s3://data/experts")
asked = event(folder).model_copy(update={"places": places})
starts = KfpStarts(endpoint, experiment="vilam3")
class Dying:
    find = starts.find
    def start(self, name, event, digests):
        if dies == "before": os.kill(os.getpid(), signal.SIGKILL)
        run = starts.start(name, event, digests)
        if dies == "after": os.kill(os.getpid(), signal.SIGKILL)
        return run
terms = Terms(times=Times(lease_s=5.0 if dies else 120.0, patience_s=120.0))
mine = Intake(open_store("s3://data/intake"), Dying(), terms=terms)
print(*(mine.submit(asked).decision for _ in range(count)), sep="\\n")
"""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def bucket(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:  # noqa: ANN401 - boto3 has no types
    """With a corpus and a base, and nothing of other tests."""
    for name, value in (s3.environment() | {"HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    if BUCKET not in [one["Name"] for one in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=BUCKET)
    for one in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        client.delete_object(Bucket=BUCKET, Key=one["Key"])
    put_corpus(client, "one")
    client.put_object(Bucket=BUCKET, Key="base/digests.json", Body=b'{"llm/model.safetensors": "w1"}')
    return client


def put_corpus(client: Any, name: str) -> None:  # noqa: ANN401 - boto3 has no types
    """A corpus as far as the intake reads it."""
    manifest = json.dumps({"digest": name, "samples": SAMPLES}).encode()
    client.put_object(Bucket=BUCKET, Key=f"corpora/{name}/corpus.json", Body=manifest)


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def endpoint(kept: Kept, bucket: object, tmp_path: Path) -> Iterator[str]:
    """A server of pipelines with the real retraining pipeline."""
    assert bucket
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Given", (Handler,), {"kept": kept})) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{listening.server_port}"
        package = tmp_path / "retrain.yaml"
        assert main(["pipeline", "compile", "--pipeline", "retrain", "--recipe", str(TINY), "--out", str(package)]) == 0
        Server(url).publish(package)
        yield url
        listening.shutdown()


def _asker(endpoint: str, folder: Path, count: int, *, dies: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "ignore", "-c", ASKER, endpoint, str(folder), str(count), dies]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 - ourselves


def test_a_hundred_same_events_from_eight_processes_are_one_run(endpoint: str, kept: Kept, tmp_path: Path) -> None:
    """On a store that looks before it writes: this S3 server says yes to two conditional writes at the same time."""
    shares = [EVENTS // PROCESSES + (number < EVENTS % PROCESSES) for number in range(PROCESSES)]
    askers = [_asker(endpoint, tmp_path, share) for share in shares]
    told: list[str] = []
    for asker in askers:
        out, err = asker.communicate(timeout=600)
        assert asker.returncode == 0, err
        told += out.split()
    assert Counter(told) == {"started": 1, "already": EVENTS - 1}
    assert len(kept.runs) == 1


@pytest.mark.parametrize("dies", ["before", "after"])
def test_a_kill_in_the_middle_of_a_start_loses_nothing(endpoint: str, kept: Kept, tmp_path: Path, dies: str) -> None:
    """Killed between the claim and the start, or between the start and the record: one run in the end."""
    killed = _asker(endpoint, tmp_path, 1, dies=dies)
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert len(kept.runs) == (dies == "after")
    words = ["--records", "s3://data/intake", "--endpoint", endpoint, "--recipe", str(TINY)]
    words += ["--corpus", "s3://data/corpora/one", "--base-checkpoint", "s3://data/base", "--experts", "s3://data/e"]
    time.sleep(5.5)  # the lease of the killed one
    for _ in range(2):
        assert main(["retrain", "look", *words]) == 0
    assert len(kept.runs) == 1


@pytest.fixture
def service(endpoint: str, bucket: object, tmp_path: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """`vilam3 retrain serve` as a process, and its log."""
    assert bucket
    port, log = free_port(), tmp_path / "log"
    (tmp_path / "keys").write_text(f"{KEY}\n")
    words = ["retrain", "serve", "--records", "s3://data/intake", "--endpoint", endpoint, "--recipe", str(TINY)]
    words += ["--watch", "s3://data/corpora", "--base-checkpoint", "s3://data/base", "--experts", "s3://data/experts"]
    words += ["--cool-down-s", "3600", "--price", "2.5", "--port", str(port)]
    with log.open("wb") as told:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "vilam3", *words],
            stdout=told,
            stderr=told,
            env={**os.environ, "VILAM3_API_KEYS_FILE": str(tmp_path / "keys")},
        )
    try:
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120.0, trust_env=False
        ) as client:
            _wait_until_alive(client, process, log)
            yield client, log
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_alive(
    client: httpx.Client, process: "subprocess.Popen[bytes]", log: Path, *, path: str = "/healthz"
) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        try:
            client.get(path).raise_for_status()
        except httpx.HTTPError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


def test_notices_of_the_object_store_start_one_run(
    service: tuple[httpx.Client, Path],
    kept: Kept,
    bucket: Any,  # noqa: ANN401 - boto3 has no types
) -> None:
    """A hundred notices at once; and the log has neither names of data nor of who they are from."""
    client, log = service
    put_corpus(bucket, "doe-jane-1961")
    place = {"bucket": {"name": BUCKET}, "object": {"key": "corpora/doe-jane-1961/corpus.json"}}
    notice = {"Records": [{"eventName": "s3:ObjectCreated:Put", "s3": place}]}
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda _: client.post("/v1/retraining/s3", json=notice), range(EVENTS)))
    assert {answer.status_code for answer in told} == {200}
    assert Counter(answer.json()["answers"][0]["decision"] for answer in told) == {"started": 1, "already": EVENTS - 1}
    assert len(kept.runs) == 1
    put_corpus(bucket, "november")
    held = client.post("/v1/retraining", json={"corpus": "s3://data/corpora/november"})
    assert held.status_code == 202
    assert held.json()["estimate"]["cost"] > 0
    lines = log.read_text()
    assert '"decision": "started"' in lines
    assert "doe" not in lines
    assert KEY not in lines


def test_a_run_of_this_machine_goes_on_by_itself_and_is_found(tmp_path: Path) -> None:
    """A real process, which here soon ends for want of weights; its content is asked for again by name."""
    starts = HereStarts(tmp_path / "runs")
    before = psutil.Process().children()
    assert starts.find(f"{PIPELINE}-1234") is None
    run = starts.start(f"{PIPELINE}-1234", event(tmp_path), Digests(data="d", recipe="r", base="b"))
    assert run.state == "running"
    assert psutil.Process().children() == before
    end = time.monotonic() + READY_S
    while (found := starts.find(run.name)) is not None and found.state == "running":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert found is not None
    assert found.state == "failed"
    folder = tmp_path / "runs" / run.name
    assert "vilam3: " in (folder / "log").read_text()
    assert json.loads((folder / "recipe.json").read_text()) == json.loads(event(tmp_path).recipe)


def test_the_same_event_is_one_run_of_this_machine(tmp_path: Path) -> None:
    way_in = intake(tmp_path, HereStarts(tmp_path / "runs"))
    told = [way_in.submit(event(tmp_path)) for _ in range(3)]
    (process,) = (tmp_path / "runs").glob(f"{PIPELINE}-*/process.json")
    psutil.Process(json.loads(process.read_text())["pid"]).kill()
    assert [answer.decision for answer in told] == ["started", "already", "already"]


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A real tracking server, told as the chart tells it, and its log."""
    port, log = free_port(), tmp_path / "mlflow.log"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--default-artifact-root",
        str(tmp_path / "a"),
    ]
    told = {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - a program of ours
            command, stdout=output, stderr=output, env={**os.environ, **told}, cwd=tmp_path, start_new_session=True
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            _wait_until_alive(client, process, log, path="/health")
        yield f"http://127.0.0.1:{port}", log
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_an_alias_that_moves_in_mlflow_starts_one_run(
    mlflow: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own server sends and signs; moved away and back, it is the same content."""
    from mlflow import MlflowClient  # noqa: PLC0415 - takes seconds to import

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow[0])
    monkeypatch.setenv("VILAM3_RUNS", str(tmp_path / "runs"))
    starter, client = Starter(), MlflowClient(mlflow[0])
    client.create_registered_model("vilam3")
    for weights in ("w1", "w2"):
        client.create_model_version("vilam3", f"s3://data/{weights}", tags={"weights_digest": weights})
    with live(application(service_at(tmp_path, starter, base="models:/vilam3@base"))) as url:
        hook = f"{url}/v1/retraining/mlflow"
        client.create_webhook("vilam3-intake", hook, ["model_version_alias.created"], secret=SECRET)
        for number, runs in (("1", 1), ("2", 2), ("1", 2)):
            client.set_registered_model_alias("vilam3", "base", number)
            end = time.monotonic() + READY_S
            while len(starter.runs) < runs and time.monotonic() < end:
                time.sleep(0.1)
            time.sleep(2.0)  # for one too many
            assert len(starter.runs) == runs, mlflow[1].read_text()
    assert [one.places.base_checkpoint for one in starter.events] == ["s3://data/w1", "s3://data/w2"]

"""One question in logs, metrics and traces of all parts: it can be followed, and nothing of the patient is in them."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from serving import metrics
from tests.e2e.serving_fixture import Served, served
from tests.e2e.test_roles import orchestrator_command
from tests.unit.data import dicom_files

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A span that was sent."""

    service: str
    name: str
    trace: str
    span: str
    parent: str
    whole: str


@dataclass(slots=True)
class Collector:
    """What arrives at ``/v1/traces``."""

    spans: list[Seen] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        """Note the spans of one export."""
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            named = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [
                    Seen(
                        service=named["service.name"],
                        name=span.name,
                        trace=span.trace_id.hex(),
                        span=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        whole=str(span),
                    )
                    for span in scope.spans
                ]

    def of_trace(self) -> dict[tuple[str, str], Seen]:
        """The spans of our trace by service and name."""
        return {(span.service, span.name): span for span in self.spans if span.trace == TRACE}


@contextlib.contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    """A collector on the loopback; yields its address as well."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Be silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield collector, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def graph(folder: Path, environment: dict[str, str]) -> Iterator[dict[str, Served]]:
    """The model, an expert and an orchestrator."""
    store = f"file://{folder}/studies"
    with contextlib.ExitStack() as running:

        def start(name: str, command: list[str]) -> Served:
            (folder / name).mkdir()
            return running.enter_context(served(folder / name, command, environment=environment))

        role = ["tests.e2e.serving_process", "PORT", "--studies", store, "--role"]
        vlm, expert = start("vlm", [*role, "vlm"]), start("expert", [*role, "expert"])
        orchestrator = start("orchestrator", orchestrator_command(vlm, {"VISTA3D": expert}, store))
        yield {"vlm": vlm, "expert": expert, "orchestrator": orchestrator}


def test_a_question_can_be_followed_and_nothing_of_the_patient_is_in_what_is_seen(tmp_path: Path) -> None:
    voxels_KHW = np.arange(3 * 6 * 5, dtype=np.int16).reshape(3, 6, 5)
    files = sorted(dicom_files.series(tmp_path / "dicom", voxels_KHW).iterdir())
    with collecting() as (collector, address), httpx.Client(trust_env=False, timeout=120) as client:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        with graph(tmp_path, environment) as parts:
            url = parts["orchestrator"].url
            upload = client.post(f"{url}/v1/studies", files=[("f", (path.name, path.read_bytes())) for path in files])
            image = {"type": "image_url", "image_url": {"url": f"study://{upload.json()['id']}"}}
            client.get(f"{url}/v1/studies/{upload.json()['id']}", params={"PatientName": "Doe^Planted"})
            words = {"type": "text", "text": "Has Doe^Planted a hepatic tumor?"}
            answer = client.post(
                f"{url}/v1/chat/completions",
                json={"messages": [{"role": "user", "content": [image, words]}]},
                headers={"traceparent": f"00-{TRACE}-{CALLER}-01"},
            ).json()
            shown = {name: client.get(f"{part.url}/metrics").text for name, part in parts.items()}
            end = time.monotonic() + 60
            while ("vilam3-orchestrator", "POST /v1/chat/completions") not in collector.of_trace():
                assert time.monotonic() < end, collector.spans
                time.sleep(0.1)
        logs = {name: part.err.read_text() for name, part in parts.items()}
    assert answer["answer"] == "yes"
    assert len([span for span in collector.spans if span.parent == CALLER]) == 1, "somebody else traces as well"
    check_chain(collector)
    for text in (*logs.values(), *shown.values(), *(span.whole for span in collector.spans)):
        for secret in (*dicom_files.SECRETS, "Planted", "hepatic", upload.json()["id"], answer["id"]):
            assert secret not in text, secret
    traced = [json.loads(line) for line in logs["orchestrator"].splitlines() if TRACE in line]
    assert any(line["event"] == "request" and line["trace_id"] == TRACE for line in traced)
    for name in metrics.NAMES:
        assert f"# TYPE {name.removesuffix('_total')}" in shown["orchestrator"], name


def check_chain(collector: Collector) -> None:
    """From the caller through the orchestrator to the model and the expert, each below the one that asked it."""
    spans = collector.of_trace()
    door = spans["vilam3-orchestrator", "POST /v1/chat/completions"]
    assert door.parent == CALLER
    dialogue = spans["vilam3-orchestrator", "dialogue"]
    assert dialogue.parent == door.span
    for asking, service, working in (
        ("ask the language model", "vilam3-vlm", "decode"),
        ("ask an expert", "vilam3-expert", "run"),
    ):
        assert spans["vilam3-orchestrator", asking].parent == dialogue.span
        theirs = [span for span in collector.spans if span.service == service and span.trace == TRACE]
        by_id = {span.span: span for span in theirs}
        work = next(span for span in theirs if span.name == working)
        assert by_id[work.parent].name.startswith("POST /v1/"), work
        asked = {span.span for span in collector.spans if span.name == asking}
        assert by_id[work.parent].parent in asked
    assert {"reply", "expert"} <= {span.name for span in collector.spans}

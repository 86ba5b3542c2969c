"""Mutated files and hostile addresses at the endpoint's own door: 4xx or an answer, never 5xx nor an endless wait."""

import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.answer import Service
from tests.unit.data.dicom_files import SECRETS
from tests.unit.data.test_fuzz import dicom_bytes, edits, jpeg_bytes, mutate
from tests.unit.serving.calls import asked
from tests.unit.serving.test_wrong_inputs import zipped
from tests.unit.sources.hostile import hostile_server
from vilam3.sources.images import Sources
from vilam3.sources.pacs import Pacs
from vilam3.sources.permits import HOSTS_VARIABLE, NETWORKS_VARIABLE, SECONDS_VARIABLE, Permits

FUZZ = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
LONGEST_S = 10.0


def corpus(kind: str) -> tuple[str, bytes]:
    """A good file of each kind, to be spoilt."""
    match kind:
        case "nifti":
            return "x.nii", nib.Nifti1Image(np.zeros((3, 4, 5), dtype=np.int16), np.eye(4)).to_bytes()
        case "zip":
            return "x.zip", zipped(("Doe/a.dcm", dicom_bytes("classic")))
        case "jpeg":
            return "x.dcm", jpeg_bytes(lossless=True)
        case _:
            return "x.dcm", dicom_bytes(kind)


@FUZZ
@given(
    st.sampled_from(["classic", "enhanced", "jpeg", "nifti", "zip"]),
    st.sampled_from(["/v1/studies", "/upload/", "/v1/chat/completions/?Prompt=x"]),
    edits,
)
def test_mutated_files(client: TestClient, kind: str, path: str, changes: list[tuple[float, str, int]]) -> None:
    name, content = corpus(kind)
    began = time.monotonic()
    response = client.post(path, files={"file": (name, mutate(content, changes, head=1_000))})
    assert response.status_code < 500, response.text
    assert time.monotonic() - began < LONGEST_S
    assert not any(secret in response.text for secret in SECRETS)


@FUZZ
@given(
    st.text(max_size=60),
    st.sampled_from(["http://", "https://", "s3://", "dicomweb://", "dicomweb://pacs/studies/", ""]),
)
def test_any_address(client: TestClient, rest: str, scheme: str) -> None:
    for body in (asked("tumor?", scheme + rest), {"urls": [scheme + rest]}):
        path = "/v1/studies" if "urls" in body else "/v1/chat/completions"
        response = client.post(path, json=body)
        assert 400 <= response.status_code < 500, response.text


@pytest.mark.parametrize("path", ["drips", "drips-headers", "sends-much", "moved", "garbage", "liar", "packed", "scan"])
def test_whatever_a_listed_host_does(client: TestClient, service: Service, path: str) -> None:
    with hostile_server() as port:
        listed = {HOSTS_VARIABLE: f"127.0.0.1:{port}", NETWORKS_VARIABLE: "127.0.0.0/8", SECONDS_VARIABLE: "1"}
        service.studies.sources = Sources(permits=Permits.from_environment(listed))
        began = time.monotonic()
        response = client.post("/v1/chat/completions", json=asked("tumor?", f"http://127.0.0.1:{port}/{path}"))
        assert 400 <= response.status_code < 500, response.text
        assert time.monotonic() - began < LONGEST_S


def test_a_slow_host_holds_up_nobodys_upload(client: TestClient, service: Service, png: bytes) -> None:
    """Images elsewhere are waited for in a lane of their own."""
    assert service.fetchers is not service.readers
    service.studies.sources = Sources(permits=Permits(), pacs=Pacs("http://127.0.0.1:9/dicom-web"))
    down = client.post("/v1/studies", json={"urls": ["dicomweb://pacs/studies/1.2"]})
    assert (down.status_code, "out of reach" in down.text) == (503, True)
    assert client.post("/v1/studies", files={"file": ("a.png", png)}).status_code == 201


def test_nothing_fetched_or_spoilt_is_left_behind(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    client.post("/v1/studies", files={"file": ("x.dcm", dicom_bytes("classic")[:500])})
    client.post("/v1/studies", json={"urls": ["https://example.org/x"]})
    assert list(scratch.iterdir()) == []

"""Whatever is sent, the answer is 4xx with one sentence, and nothing of a patient is logged."""

import io
import logging
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from serving.answer import Service
from tests.unit.data import dicom_files
from tests.unit.serving.calls import asked, data_url, refused, uploaded


def zipped(*files: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return stream.getvalue()


def huge_png() -> bytes:
    """A well-formed header of 20,000 x 20,000 pixels with a few rows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(20_001 * 3))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def dicom_series(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    voxels_KHW = np.arange(3 * 6 * 5, dtype=np.int16).reshape(3, 6, 5)
    return sorted(dicom_files.series(tmp_path_factory.mktemp("dicom"), voxels_KHW).iterdir())


def test_a_dicom_zip_becomes_a_study(client: TestClient, dicom_series: list[Path]) -> None:
    study = uploaded(client, zipped(*((path.name, path.read_bytes()) for path in dicom_series)), "scan.zip")
    assert (study["modality"], study["num_slices"]) == ("CT", 3)


def test_several_dicom_files_become_one_study(client: TestClient, dicom_series: list[Path]) -> None:
    files = [("files", (path.name, path.read_bytes())) for path in dicom_series]
    response = client.post("/v1/studies", files=files)
    assert response.json()["num_slices"] == 3


@pytest.mark.parametrize(
    ("name", "content", "status", "word"),
    [
        ("notes.dcm", b"This is a letter, not an image.\n" * 20, 400, ".dcm"),
        ("scan.zip", zipped(("a.dcm", b"x" * 5000))[:-30], 400, "zip"),
        ("bomb.zip", zipped(("a.dcm", bytes(64 << 20))), 413, "bomb"),
        ("empty.nii.gz", b"", 400, "empty"),
        ("huge.png", huge_png(), 413, "64,000,000"),
        ("cut.png", huge_png()[:20], 400, "png"),
        ("escape.zip", zipped(("../../etc/passwd", b"x")), 400, "leads out"),
    ],
    ids=["text", "cut zip", "bomb", "empty", "huge", "cut picture", "escape"],  # zips hold the time: no name for a test
)
def test_damaged_and_hostile_files_are_refused(
    client: TestClient, service: Service, tmp_path: Path, name: str, content: bytes, status: int, word: str
) -> None:
    error = refused(client.post("/v1/studies", files={"file": (name, content)}), status)
    assert word in error["message"].lower()
    assert str(tmp_path) not in error["message"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert service.readers.in_flight == 0


def test_two_patients_in_one_upload_are_refused(client: TestClient, tmp_path: Path, dicom_series: list[Path]) -> None:
    other = dicom_files.series(
        tmp_path / "other", np.zeros((1, 6, 5), np.int16), tags={"PatientID": "PID-2", "PatientName": "Roe^Planted"}
    )
    files = [("files", (path.name, path.read_bytes())) for path in (*dicom_series, *other.iterdir())]
    error = refused(client.post("/v1/studies", files=files), 400, "patient")
    assert not any(secret in error["message"] for secret in (*dicom_files.SECRETS, "Roe"))


def test_wrong_images_within_a_chat_are_refused_alike(client: TestClient) -> None:
    refused(client.post("/v1/chat/completions", json=asked("?", data_url(huge_png()))), 413, "64,000,000")
    refused(client.post("/v1/chat/completions", json=asked("?", data_url(b"text", "application/dicom"))), 400)


def test_a_planted_patient_is_in_no_log(
    client: TestClient, dicom_series: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    packed = zipped(*(("Doe_Planted.dcm", path.read_bytes()) for path in dicom_series[:1]))
    study = uploaded(client, packed, "Doe_Planted.zip")
    answer = client.post("/v1/chat/completions", json=asked("Has Doe Planted a tumor?", f"study://{study['id']}"))
    assert answer.status_code == 200
    client.post("/v1/studies", files={"file": ("Doe_Planted.dcm", b"Doe^Planted")})
    assert not any(secret in str(study) + answer.text for secret in dicom_files.SECRETS)
    logged = [
        str(vars(record)) for record in caplog.records if not record.name.startswith(("httpx", "python_multipart"))
    ]
    assert any("/v1/chat/completions" in line for line in logged)
    assert not any(secret in line for secret in dicom_files.SECRETS for line in logged)
    assert not any(study["id"] in line for line in logged)

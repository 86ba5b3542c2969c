"""What the page for people needs of the server."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from serving import chat_page
from serving.answer import Service
from serving.app import install
from serving.tenants import Tenants
from tests.unit.data import dicom_files
from tests.unit.serving.calls import asked, uploaded
from vilam3.errors import NotFoundError

DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>page</title>")
    (folder / "page.js").write_text("export {};")
    return folder


@pytest.fixture
def page(bundle: Path) -> TestClient:
    app = FastAPI()
    chat_page.install(app, bundle)
    return TestClient(app)


@pytest.mark.parametrize("path", ["/", "/page/page.js"])
def test_the_page_may_fetch_and_run_nothing_from_elsewhere(page: TestClient, path: str) -> None:
    policy = dict(part.split(" ", 1) for part in page.get(path).headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
    assert "unsafe" not in " ".join(policy.values())
    assert "//" not in " ".join(policy.values())


def test_the_page_serves_its_own_folder_alone(page: TestClient) -> None:
    assert page.get("/page/%2e%2e/secret").status_code == 404
    assert page.get("/page/absent.js").status_code == 404


def test_a_server_without_the_page_says_so(tmp_path: Path) -> None:
    app = FastAPI()
    chat_page.install(app, tmp_path)
    told = TestClient(app).get("/")
    assert (told.status_code, "make page" in told.text) == (200, True)


def test_a_tenant_is_listed_its_own_studies_the_last_used_first(service: Service, volume: bytes, png: bytes) -> None:
    service.tenants = Tenants(["alpha-key-0123456789", "bravo-key-0123456789"])
    app = FastAPI()
    install(app, service)
    alpha = TestClient(app, headers={"Authorization": "Bearer alpha-key-0123456789"})
    bravo = TestClient(app, headers={"Authorization": "Bearer bravo-key-0123456789"})
    first, second = uploaded(alpha, volume), uploaded(alpha, volume)
    theirs = uploaded(bravo, png, "chest.png")
    assert [study["id"] for study in alpha.get("/v1/studies").json()["data"]] == [second["id"], first["id"]]
    assert [study["id"] for study in bravo.get("/v1/studies").json()["data"]] == [theirs["id"]]
    assert TestClient(app).get("/v1/studies").status_code == 401
    alpha.post("/v1/chat/completions", json=asked("tumor?", f"study://{first['id']}"))
    assert [study["id"] for study in alpha.get("/v1/studies").json()["data"]] == [first["id"], second["id"]]


def test_a_volume_has_the_grid_of_the_upload_and_the_window_of_the_model(client: TestClient, volume: bytes) -> None:
    study = uploaded(client, volume)
    assert study["volumes"] == [""]
    given = nib.Nifti1Image.from_bytes(
        gzip.decompress(client.get(f"/v1/studies/{study['id']}/volumes/0.nii.gz").content)
    )
    sent = nib.Nifti1Image.from_bytes(gzip.decompress(volume))
    assert np.array_equal(np.asarray(given.dataobj), np.asarray(sent.dataobj))
    assert np.allclose(given.affine, sent.affine)
    assert (float(given.header["cal_min"]), float(given.header["cal_max"])) == (-150.0, 250.0)


def test_a_flat_picture_has_no_volume(client: TestClient, png: bytes) -> None:
    study = uploaded(client, png, "chest.png")
    assert study["volumes"] == []
    refused = client.get(f"/v1/studies/{study['id']}/volumes/0.nii.gz")
    assert (refused.status_code, "the study has 0" in refused.json()["error"]["message"]) == (404, True)


def test_nothing_of_the_patient_is_in_a_volume(client: TestClient, tmp_path: Path) -> None:
    files = [
        ("file", (f"{dicom_files.PATIENT}.dcm", path.read_bytes()))
        for path in dicom_files.series(tmp_path / "series", np.zeros((2, 6, 5), np.int16)).iterdir()
    ]
    study = client.post("/v1/studies", files=files).json()
    content = gzip.decompress(client.get(f"/v1/studies/{study['id']}/volumes/0.nii.gz").content)
    assert not [secret for secret in dicom_files.SECRETS if secret.encode() in content]


def test_a_volume_leaves_no_file_behind(
    client: TestClient, volume: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = uploaded(client, volume)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    open_before = len(list(DESCRIPTORS.iterdir()))
    client.get(f"/v1/studies/{study['id']}/volumes/0.nii.gz")
    assert list(scratch.iterdir()) == []
    assert len(list(DESCRIPTORS.iterdir())) <= open_before


def test_a_study_that_goes_while_it_is_listed_is_left_out(
    service: Service, volume: bytes, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = uploaded(client, volume), uploaded(client, volume)
    get = service.studies.shelf.objects.get

    def racing(key: str) -> bytes:
        if gone["id"] in key:
            raise NotFoundError("gone")
        return get(key)

    monkeypatch.setattr(service.studies.shelf.objects, "get", racing)
    assert [study["id"] for study in client.get("/v1/studies").json()["data"]] == [kept["id"]]


def test_the_record_of_a_call_names_the_labels_of_its_mask(client: TestClient, volume: bytes) -> None:
    study = uploaded(client, volume)
    body = client.post("/v1/chat/completions", json=asked("tumor?", f"study://{study['id']}")).json()
    assert body["expert_calls"][0]["labels"] == {"26": "hepatic tumor"}

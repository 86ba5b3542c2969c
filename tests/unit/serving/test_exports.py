"""Results leave as DICOM SEG and report, for their own tenant, and only of images that can be referred to."""

import io
import zipfile
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from fastapi.testclient import TestClient

from serving.answer import Service
from tests.unit.data import dicom_files as make
from tests.unit.serving.calls import asked, refused, uploaded
from tests.unit.serving.fakes import RuleEngine, SlowExperts
from vilam3.errors import PacsError
from vilam3.sources.images import Sources
from vilam3.sources.pacs import URL_VARIABLE, Pacs, RefusedError
from vilam3.sources.permits import Permits

UIDS = {"StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.9"}


@pytest.fixture(scope="module")
def dicom_zip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An oblique CT."""
    folder = tmp_path_factory.mktemp("dicom")
    voxels_KHW = np.arange(4 * 6 * 5, dtype=np.int16).reshape(4, 6, 5)
    make.series(folder, voxels_KHW, grid=make.oblique_grid(), tags=UIDS)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    return stream.getvalue()


def ask_about(client: TestClient, content: bytes, name: str = "scan.zip", **extra: object) -> dict[str, Any]:
    study = uploaded(client, content, name)
    response = client.post("/v1/chat/completions", json=asked("tumor?", f"study://{study['id']}", **extra))
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_a_segmentation_of_dicom_images_is_a_dicom_seg(client: TestClient, dicom_zip: bytes) -> None:
    (call,) = ask_about(client, dicom_zip)["expert_calls"]
    first = client.get(call["segmentation_url"])
    assert (first.status_code, first.headers["content-type"]) == (200, "application/dicom")
    found = hd.seg.segread(io.BytesIO(first.content))
    assert [segment.SegmentLabel for segment in found.SegmentSequence][-1] == "hepatic tumor"
    assert (found.SegmentationType, found.StudyInstanceUID) == ("LABELMAP", "1.2.3")
    assert client.get(call["segmentation_url"]).content == first.content
    older = hd.seg.segread(io.BytesIO(client.get(call["segmentation_url"] + "?form=binary").content))
    assert older.SegmentationType == "BINARY"
    refused(client.get(call["segmentation_url"] + "?form=png"), 400, "form")


def test_a_mask_of_other_files_has_none(client: TestClient, volume: bytes) -> None:
    answer = ask_about(client, volume, "ct.nii.gz")
    (call,) = answer["expert_calls"]
    assert call["segmentation_url"] is None
    refused(client.get(f"/v1/results/{answer['id']}/segmentations/0.dcm"), 404, "mask_url")
    refused(client.get(f"/v1/results/chatcmpl-{'0' * 32}/segmentations/0.dcm"), 404, "none of that name")


def test_the_report_measures_and_names_nobody(client: TestClient, dicom_zip: bytes) -> None:
    answer = ask_about(client, dicom_zip)
    response = client.get(f"/v1/results/{answer['id']}/report.json")
    made = response.json()
    (found,) = made["findings"][0]["structures"]
    assert (found["label"], found["voxels"]) == ("hepatic tumor", 8)
    assert found["volume_ml"] == pytest.approx(8 * 0.8 * 0.6 * 3.0 / 1000, rel=1e-3)
    assert set(made["findings"][0]["files"]) == {"overlay", "mask", "segmentation"}
    assert not any(secret in response.text for secret in (*make.SECRETS, "1.2.3"))
    refused(client.get(f"/v1/results/chatcmpl-{'0' * 32}/report.json"), 404, "none of that name")


def test_a_question_about_the_volume_is_shown_where_most_of_it_is(
    client: TestClient, volume: bytes, engine: RuleEngine
) -> None:
    """The fake segments slices 1 and 2 of 6; the middle one is 3."""
    (call,) = ask_about(client, volume, "ct.nii.gz", scope="volume")["expert_calls"]
    assert call["provenance"]["slice_index"] == 1
    assert call["colors"] == {"red": "hepatic tumor"}
    assert "red: hepatic tumor" in engine.seen[-1][-1].text
    (by_slice,) = ask_about(client, volume, "ct.nii.gz")["expert_calls"]
    assert by_slice["provenance"]["slice_index"] != 1
    both = asked("tumor?", scope="volume", slice_index=2)
    refused(client.post("/v1/chat/completions", json=both), 400, "scope")


class Archive(Pacs):
    """A PACS that keeps what it is sent, or not."""

    def __init__(self, *, knows_label_maps: bool = True, is_up: bool = True) -> None:
        """Say what it knows."""
        super().__init__("http://127.0.0.1:1/dicom-web")
        self.knows_label_maps, self.is_up = knows_label_maps, is_up
        self.kept: dict[str, bytes] = {}

    def store(self, content: bytes, *, where: str) -> str:
        """See `Pacs.store`."""
        found = hd.seg.segread(io.BytesIO(content))
        if not self.is_up:
            raise PacsError(f"{where}: the PACS is out of reach; check {URL_VARIABLE}")
        if found.SegmentationType == "LABELMAP" and not self.knows_label_maps:
            raise RefusedError(f"{where}: the PACS does not keep it (reason 0122H)")
        self.kept[str(found.SOPInstanceUID)] = content
        return str(found.SOPInstanceUID)


def connect(service: Service, archive: Archive) -> Archive:
    service.studies.sources = Sources(permits=Permits(), pacs=archive)
    return archive


@pytest.mark.parametrize(("knows", "form"), [(True, "LABELMAP"), (False, "BINARY")])
def test_segmentations_go_back_to_the_pacs_once(
    client: TestClient, service: Service, dicom_zip: bytes, knows: bool, form: str
) -> None:
    archive = connect(service, Archive(knows_label_maps=knows))
    url = f"/v1/results/{ask_about(client, dicom_zip)['id']}/stow"
    (stored,) = client.post(url).json()["stored"]
    assert (stored["form"], stored["number"]) == (form, 0)
    assert client.post(url).json()["stored"] == [stored]
    assert list(archive.kept) == [stored["sop_instance_uid"]]


def test_a_pacs_that_is_down_or_unknown_is_said_to_be(
    client: TestClient, service: Service, dicom_zip: bytes, volume: bytes
) -> None:
    answer = ask_about(client, dicom_zip)
    refused(client.post(f"/v1/results/{answer['id']}/stow"), 400, URL_VARIABLE)
    connect(service, Archive(is_up=False))
    refused(client.post(f"/v1/results/{answer['id']}/stow"), 503, "out of reach")
    other = ask_about(client, volume, "ct.nii.gz")
    refused(client.post(f"/v1/results/{other['id']}/stow"), 404, "nothing to store")


def test_making_them_takes_no_time_from_the_answer(
    client: TestClient, dicom_zip: bytes, experts: SlowExperts, tmp_path: Path
) -> None:
    """They are made when they are asked for."""
    ask_about(client, dicom_zip)
    assert experts.calls
    assert list(tmp_path.rglob("source-*"))
    assert not list(tmp_path.rglob("segmentation-*"))

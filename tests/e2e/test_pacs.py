"""A real Orthanc with DICOMweb: series in, question, segmentation stored, read back where the series lies.

Skipped where Orthanc is not installed, with the line that installs it.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom as hd
import httpx
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from infra.pacs import orthanc
from infra.pacs.orthanc import Orthanc
from tests.e2e.archive import archived
from tests.e2e.serving_fixture import Served, served
from tests.unit.data import dicom_files as make
from tests.unit.results.test_segmentation import GRIDS, labels_by_point
from vilam3.data.dicom import read_files
from vilam3.data.limits import Limits
from vilam3.data.study import Study
from vilam3.errors import PacsError
from vilam3.sources.pacs import Pacs, Place

pytestmark = pytest.mark.e2e
SHAPE_KHW = (6, 9, 8)
SEQUENCES = {"Ax T2 FLAIR": "flair", "Ax T1 post gad": "t1c", "Ax T2 TSE": "t2", "Ax T1 SE": "t1"}
LIMITS = Limits()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with archived(tmp_path_factory.mktemp("orthanc") / "pacs") as started:
        yield started


@pytest.fixture(scope="module")
def pacs(archive: Orthanc) -> Pacs:
    found = Pacs.from_environment(archive.environment())
    assert found is not None
    return found


@pytest.fixture(scope="module")
def server(archive: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    command = ["tests.e2e.serving_process", "PORT"]
    with served(tmp_path_factory.mktemp("server"), command, environment=archive.environment()) as running:
        yield running
    logged = running.err.read_text() + running.out.read_text()
    assert not any(secret in logged for secret in make.SECRETS)
    assert archive.url not in logged


def store(pacs: Pacs, files: list[Path]) -> None:
    for path in files:
        pacs.store(path.read_bytes(), where=path.name)


def voxels(seed: int = 0) -> Any:  # noqa: ANN401 - of numpy
    return np.random.default_rng(seed).integers(0, 1000, SHAPE_KHW).astype(np.int16)


def one_series(folder: Path, grid: make.Grid, *, multi_frame: bool = False) -> tuple[str, list[Path]]:
    """A series of a study of its own; its study's UID and its files."""
    uids = {name: str(generate_uid()) for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    if not multi_frame:
        return uids["StudyInstanceUID"], sorted(make.series(folder, voxels(), grid=grid, tags=uids).iterdir())
    path = make.enhanced(folder / "multi.dcm", voxels(), grid=grid)
    dataset = pydicom.dcmread(path)
    for keyword, value in uids.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return uids["StudyInstanceUID"], [path]


def ask(server: Served, url: str, **extra: object) -> httpx.Response:
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Is there a hepatic tumor?"}]
    body = {"messages": [{"role": "user", "content": content}], **extra}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120, trust_env=False)


def expected_points(study: Study) -> set[tuple[float, ...]]:
    """Where the server's expert segments: a box of its own."""
    volume = study.volumes[0]
    ids_XYZ = np.zeros(volume.voxels_XYZ.shape, np.uint8)
    ids_XYZ[1:3, 1:3, 1:3] = 26
    points_RAS = (volume.affine_RAS @ np.c_[np.argwhere(ids_XYZ), np.ones(8)].T)[:3].T
    return {tuple((np.round(point * (-1, -1, 1), 2) + 0.0).tolist()) for point in points_RAS}


@pytest.mark.parametrize("multi_frame", [False, True], ids=["series", "multi-frame"])
@pytest.mark.parametrize("name", ["oblique", "anisotropic", "gantry tilt"])
def test_a_segmentation_comes_back_from_the_archive_where_the_series_lies(
    server: Served, pacs: Pacs, tmp_path: Path, name: str, multi_frame: bool
) -> None:
    study_uid, files = one_series(tmp_path / "series", GRIDS[name], multi_frame=multi_frame)
    store(pacs, files)
    response = ask(server, f"dicomweb://pacs/studies/{study_uid}")
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["answer"] == "yes"
    stowed = httpx.post(f"{server.url}/v1/results/{answer['id']}/stow", timeout=60, trust_env=False)
    assert stowed.status_code == 200, stowed.text
    (kept,) = stowed.json()["stored"]
    assert kept["form"] == "LABELMAP"
    found = read_back(pacs, study_uid, tmp_path / "back")
    assert str(found.SOPInstanceUID) == kept["sop_instance_uid"]
    assert (found.PatientID, found.StudyInstanceUID) == ("PID-4711", study_uid)
    points = labels_by_point(found)
    study = read_files(files, modality=None, series=None, limits=LIMITS, where="x")
    expected = expected_points(study)
    assert len(points) == len(expected) == 8
    assert all(min(np.abs(np.subtract(point, other)).max() for other in expected) < 0.02 for point in points)
    first = httpx.get(server.url + answer["expert_calls"][0]["segmentation_url"], trust_env=False).content
    assert hd.seg.segread(io.BytesIO(first)).SOPInstanceUID == found.SOPInstanceUID


def read_back(pacs: Pacs, study_uid: str, folder: Path) -> hd.seg.Segmentation:
    """The one segmentation of a study, by QIDO and WADO alone."""
    with pacs._client("read back") as client:
        series = client.search_for_series(study_uid, search_filters={"Modality": "SEG"})
        (uid,) = (found["0020000E"]["Value"][0] for found in series)
    pacs.fetch(Place(study_uid=study_uid, series_uid=uid), folder, limits=LIMITS, total_s=60, where="read back")
    (path,) = folder.iterdir()
    return hd.seg.segread(path)


def test_four_mr_sequences_are_told_by_their_names(server: Served, pacs: Pacs, tmp_path: Path) -> None:
    """Stored in another order, beside a localizer series that nobody asked for."""
    study_uid, space_uid = str(generate_uid()), str(generate_uid())
    for number, description in enumerate([*SEQUENCES, "localizer"]):
        tags = {
            "StudyInstanceUID": study_uid, "FrameOfReferenceUID": space_uid, "SeriesDescription": description,
            "SeriesInstanceUID": str(generate_uid()), "SeriesNumber": number,
        }  # fmt: skip
        store(pacs, sorted(make.series(tmp_path / str(number), voxels(number), modality="MR", tags=tags).iterdir()))
    place = Place(study_uid=study_uid)
    folder = pacs.fetch(place, tmp_path / "back", limits=LIMITS, total_s=60, where="x")
    study = read_files(sorted(folder.iterdir()), modality=None, series=None, limits=LIMITS, where="x")
    assert [volume.sequence for volume in study.volumes] == ["t1c", "t1", "t2", "flair"]
    order = list(SEQUENCES.values())
    for volume in study.volumes:
        assert volume.voxels_XYZ.max() == voxels(order.index(volume.sequence)).max()
    kept = httpx.post(
        f"{server.url}/v1/studies", json={"urls": [f"dicomweb://pacs/studies/{study_uid}"]}, timeout=60, trust_env=False
    ).json()
    assert (kept["modality"], kept["num_views"], kept["num_slices"]) == ("MRI", 4, SHAPE_KHW[0])


def test_what_is_not_there_or_not_clear_is_the_callers_to_mend(server: Served, pacs: Pacs, tmp_path: Path) -> None:
    assert ask(server, "dicomweb://pacs/studies/1.2.3.4").status_code == 404
    assert ask(server, "dicomweb://pacs/studies/1.2.3.4/series/5.6").status_code == 404
    study_uid, files = one_series(tmp_path / "one", make.Grid())
    store(pacs, files)
    other = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": str(generate_uid())}
    store(pacs, sorted(make.series(tmp_path / "two", voxels(), tags=other).iterdir()))
    response = ask(server, f"dicomweb://pacs/studies/{study_uid}")
    assert response.status_code == 400
    assert f"/series/{other['SeriesInstanceUID']} (CT, 6 images)" in response.json()["error"]["message"]
    assert ask(server, f"dicomweb://pacs/studies/{study_uid}/series/{other['SeriesInstanceUID']}").status_code == 200


def test_a_wrong_key_is_told(archive: Orthanc, tmp_path: Path) -> None:
    wrong = Pacs(archive.url, authorization="Basic bm86Ym9keQ==")
    with pytest.raises(PacsError, match="refuses this server"):
        wrong.fetch(Place(study_uid="1.2"), tmp_path, limits=LIMITS, total_s=9, where="x")


def test_an_archive_that_dies_is_told(server: Served, archive: Orthanc, pacs: Pacs, tmp_path: Path) -> None:
    """Between question and storing; once it is back, the same request stores what was found."""
    study_uid, files = one_series(tmp_path / "series", make.Grid())
    store(pacs, files)
    answer = ask(server, f"dicomweb://pacs/studies/{study_uid}").json()
    orthanc.end(archive)
    try:
        stowed = httpx.post(f"{server.url}/v1/results/{answer['id']}/stow", timeout=120, trust_env=False)
        for response in (ask(server, f"dicomweb://pacs/studies/{study_uid}"), stowed):
            assert response.status_code == 503
            assert "the PACS is out of reach" in response.json()["error"]["message"]
        assert httpx.get(server.url + answer["expert_calls"][0]["segmentation_url"], trust_env=False).is_success
    finally:
        orthanc.start(archive.folder, port=httpx.URL(archive.url).port or 0)
    assert httpx.post(f"{server.url}/v1/results/{answer['id']}/stow", timeout=60, trust_env=False).is_success

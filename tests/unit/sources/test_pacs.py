"""What a PACS may be called, and what is said when it is down, refuses or talks nonsense."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.data.dicom_files import image, save
from tests.unit.serving.live import free_port
from vilam3.data.limits import Limits
from vilam3.errors import DataError, NotFoundError, PacsError, UserError
from vilam3.sources.images import Sources
from vilam3.sources.pacs import (
    AUTHORIZATION_FILE_VARIABLE,
    AUTHORIZATION_VARIABLE,
    FORM_VARIABLE,
    URL_VARIABLE,
    Pacs,
    Place,
    RefusedError,
    place_of,
    stored_form,
)
from vilam3.sources.permits import Permits

PACS_URL = "http://orthanc.hospital:8042/dicom-web"


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("dicomweb://pacs/studies/1.2.3", Place(study_uid="1.2.3")),
        ("dicomweb://pacs/studies/1.2.3/series/4.5/", Place(study_uid="1.2.3", series_uid="4.5")),
        ("dicomweb://orthanc.hospital/studies/1.2", Place(study_uid="1.2")),
    ],
)
def test_a_place_names_a_study_or_a_series(uri: str, place: Place) -> None:
    assert place_of(uri, pacs_url=PACS_URL, where="x") == place


@pytest.mark.parametrize(
    "uri",
    [
        "dicomweb://pacs/", "dicomweb://pacs/studies/", "dicomweb://pacs/studies/1.2/../../system",
        "dicomweb://pacs/studies/1.2%2f..", "dicomweb://pacs/studies/1.2/series/1.2/instances/3",
        "dicomweb://pacs/studies/1.2?includefield=all", "dicomweb://other/studies/1.2", "dicomweb:///studies/1.2",
        "dicomweb://pacs:1/studies/1.2", "dicomweb://user@pacs/studies/1.2", "dicomweb://pacs/studies/" + "1" * 65,
        "dicomweb://pacs/studies/1..2", "dicomweb://pacs/studies/*",
    ],
)  # fmt: skip
def test_anything_else_is_refused(uri: str) -> None:
    with pytest.raises(DataError):
        place_of(uri, pacs_url=PACS_URL, where="x")


def test_the_environment_names_it(tmp_path: Path) -> None:
    assert Pacs.from_environment({}) is None
    secret = tmp_path / "authorization"
    secret.write_text("Basic dXNlcjpwYXNzd29yZA==\n")
    variables = {URL_VARIABLE: PACS_URL + "/", AUTHORIZATION_FILE_VARIABLE: str(secret), FORM_VARIABLE: "binary"}
    found = Pacs.from_environment(variables)
    assert found is not None
    assert (found.url, stored_form(found.form)) == (PACS_URL, ("BINARY",))
    assert stored_form("auto") == ("LABELMAP", "BINARY")
    for wrong in ({URL_VARIABLE: "orthanc"}, {FORM_VARIABLE: "png"}, {AUTHORIZATION_FILE_VARIABLE: "/nowhere"}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Pacs.from_environment(variables | wrong)


def test_without_a_pacs_the_operator_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=URL_VARIABLE):
        Sources(permits=Permits()).fetch("dicomweb://pacs/studies/1.2", tmp_path, limits=Limits(), where="image_url 1")


def test_a_pacs_that_is_down_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(PacsError, match=f"out of reach.*{URL_VARIABLE}") as caught:
        fetch(f"http://127.0.0.1:{free_port()}/dicom-web", tmp_path)
    assert caught.value.http_status == 503


def fetch(url: str, folder: Path, *, series: str = "") -> Path:
    place = Place(study_uid="1.2", series_uid=series)
    return Pacs(url, authorization="Basic x").fetch(place, folder, limits=Limits(), total_s=20, where="image_url 1")


class Odd(http.server.BaseHTTPRequestHandler):
    """Answers as its path begins."""

    def do_GET(self) -> None:
        """Answer what the path says."""
        kind = self.path.split("/")[1]
        body, content_type = BODIES.get(kind, (b"", "text/plain"))
        self.send_response(int(kind) if kind.isdigit() else 200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:  # noqa: ANN401 - the library's signature
        """Say nothing."""


SERIES = (
    b'[{"0020000E":{"vr":"UI","Value":["1.5"]},"00080060":{"vr":"CS","Value":["CT"]},"00201209":{"vr":"IS","Value":[3]}},'
    b'{"0020000E":{"vr":"UI","Value":["1.6"]},"00080060":{"vr":"CS","Value":["CT"]}},'
    b'{"0020000E":{"vr":"UI","Value":["1.7"]},"00080060":{"vr":"CS","Value":["SR"]}}]'
)
BODIES = {
    "empty": (b"[]", "application/dicom+json"),
    "html": (b"<html>PatientName Doe^Planted</html>", "text/html"),
    "several": (SERIES, "application/dicom+json"),
    "nonsense": (b'{"a": 1}', "application/dicom+json"),
}


@pytest.fixture
def odd() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("401", PacsError, AUTHORIZATION_VARIABLE),
        ("404", NotFoundError, "check the UIDs"),
        ("500", PacsError, "HTTP 500"),
        ("html", PacsError, "root of its DICOMweb"),
        ("nonsense", (PacsError, NotFoundError), "root of its DICOMweb|no such study"),
        ("empty", NotFoundError, "no such study"),
        ("several", DataError, r"2 series; name one: /series/1.5 \(CT, 3 images\), /series/1.6 \(CT, \? images\)"),
    ],
)
def test_every_odd_answer_is_told_in_our_words(
    odd: str, tmp_path: Path, kind: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        fetch(f"{odd}/{kind}", tmp_path)
    assert "Doe" not in str(caught.value)


def test_a_series_that_is_no_dicom_is_told_in_our_words(odd: str, tmp_path: Path) -> None:
    with pytest.raises(PacsError, match="root of its DICOMweb"):
        fetch(f"{odd}/html", tmp_path, series="1.5")


def test_an_object_that_is_not_kept_can_be_told_from_an_archive_that_is_down(odd: str, tmp_path: Path) -> None:
    content = save(image(np.zeros((2, 2), np.int16)), tmp_path / "x.dcm").read_bytes()
    with pytest.raises(RefusedError, match="HTTP 409"):
        Pacs(f"{odd}/409").store(content, where="stow")
    with pytest.raises(PacsError) as caught:
        Pacs(f"{odd}/503").store(content, where="stow")
    assert not isinstance(caught.value, RefusedError)

"""The hospital's archive over DICOMweb: series come from it (QIDO, WADO), segmentations go back to it (STOW).

One archive, named by the operator's environment; a request only names studies and series of it.
"""

import contextlib
import io
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit

import pydicom
import requests
from dicomweb_client.web import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from retrying import RetryError

from vilam3.data import dicom_file
from vilam3.data.limits import Limits
from vilam3.data.sequences import four_of, sequence_of_text
from vilam3.errors import DataError, NotFoundError, PacsError, UserError
from vilam3.remote import is_loopback

URL_VARIABLE = "VILAM3_PACS_URL"
AUTHORIZATION_VARIABLE = "VILAM3_PACS_AUTHORIZATION"  # the header itself, or with _FILE a file that holds it
AUTHORIZATION_FILE_VARIABLE = f"{AUTHORIZATION_VARIABLE}_FILE"
FORM_VARIABLE = "VILAM3_PACS_SEGMENTATION"
NAME = "pacs"  # what dicomweb://pacs/... calls it
Form = Literal["auto", "labelmap", "binary"]
CONNECT_S, READ_S = 5.0, 60.0
ATTEMPTS = 3
IMAGES = frozenset({"CT", "MR", "CR", "DX", "RG", "MG", "US", "OT", "SC", "XC"})
NAMED_SERIES = 8
DENIED, ABSENT = frozenset({401, 403}), 404
NO_STORAGE = frozenset({400, 409, 415})  # how archives say that they do not know a storage class
_UID = r"[0-9]+(?:\.[0-9]+)*"
_PATH = re.compile(rf"/studies/({_UID})(?:/series/({_UID}))?/?")
LONGEST_UID = 64
# What the client and pydicom make of an answer that is neither DICOM JSON nor multipart.
NONSENSE = (
    AttributeError, InvalidDicomError, KeyError, TypeError, ValueError, requests.exceptions.InvalidJSONError
)  # fmt: skip


class RefusedError(PacsError):
    """The archive is there but will not keep this object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A study of the archive, or one series of it."""

    study_uid: str
    series_uid: str = ""


def place_of(uri: str, *, pacs_url: str, where: str) -> Place:
    """What ``dicomweb://pacs/studies/<uid>[/series/<uid>]`` names.

    Raises:
        DataError: it is not of this form, or names another archive than the operator's.
    """
    parts = urlsplit(uri)
    known = {NAME, (urlsplit(pacs_url).hostname or NAME).lower()}
    found = _PATH.fullmatch(parts.path)
    if found is None or parts.query or parts.fragment or any(len(uid or "") > LONGEST_UID for uid in found.groups()):
        raise DataError(f"{where}: not a study of a PACS; write dicomweb://{NAME}/studies/<uid> or .../series/<uid>")
    if parts.netloc.lower() not in known:
        raise DataError(f"{where}: this server knows one PACS; write dicomweb://{NAME}/studies/...")
    return Place(study_uid=found[1], series_uid=found[2] or "")


class Pacs:
    """An archive; may be used from several threads, each call has a connection of its own."""

    def __init__(self, url: str, *, authorization: str = "", form: Form = "auto") -> None:
        """Know where it is; nothing is sent yet.

        Args:
            url: Root of its DICOMweb services, such as ``http://orthanc:8042/dicom-web``.
            authorization: Value of the Authorization header, or empty.
            form: How segmentations are stored; ``auto`` falls back to binary ones where label maps are refused.

        Raises:
            UserError: it is not an HTTP address.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UserError(f"{URL_VARIABLE}={url}: not an HTTP address; write it like http://orthanc:8042/dicom-web")
        self.url = url.rstrip("/")
        self.form: Form = form
        self._authorization = authorization

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Pacs | None":
        """The archive that the environment names, if it names one.

        Raises:
            UserError: it is not understood, or the file with the authorization cannot be read.
        """
        url = environment.get(URL_VARIABLE, "")
        if not url:
            return None
        form = environment.get(FORM_VARIABLE, "") or "auto"
        if form not in get_args(Form):
            raise UserError(f"{FORM_VARIABLE}={form}: not one of {', '.join(get_args(Form))}; correct it")
        return cls(url, authorization=_secret(environment), form=cast("Form", form))

    def fetch(self, place: Place, folder: Path, *, limits: Limits, total_s: float, where: str) -> Path:
        """Write the images of a place below a folder.

        Of a study without a series named, the only series of images is taken, or the four MR sequences.

        Raises:
            DataError: the study has several series, or takes too long.
            NotFoundError: the archive has no such study or series.
            TooLargeError: beyond the limits.
            PacsError: it refuses or is out of reach.
        """
        end = time.monotonic() + total_s
        with self._client(where) as client:
            chosen = (place.series_uid,) if place.series_uid else self._series(client, place.study_uid, limits, where)
            taken = num_bytes = 0
            for uid in chosen:
                for image in client.iter_series(place.study_uid, uid):
                    taken += 1
                    limits.check_files(taken, where=where)
                    num_bytes += _write(image, folder / f"{taken:05d}.dcm", where)
                    limits.check_bytes(num_bytes, where=where)
                    if time.monotonic() > end:
                        raise DataError(
                            f"{where}: the PACS did not send it within {total_s:g} s; name a smaller series"
                        )
        if not taken:
            raise NotFoundError(f"{where}: the PACS has no such study or series; check the UIDs")
        return folder

    def store(self, content: bytes, *, where: str) -> str:
        """Store one DICOM object; gives its SOPInstanceUID. Storing it again changes nothing.

        Raises:
            RefusedError: the archive will not keep it.
            PacsError: it is out of reach.
        """
        dataset = pydicom.dcmread(io.BytesIO(content))
        with self._client(where) as client:
            answer = client.store_instances([dataset])
        failed = answer.get("FailedSOPSequence") or ()
        if failed:
            reason = int(failed[0].get("FailureReason", 0))
            raise RefusedError(f"{where}: the PACS does not keep it (reason {reason:04X}H); see its log")
        return str(dataset.SOPInstanceUID)

    def _series(self, client: DICOMwebClient, study_uid: str, limits: Limits, where: str) -> Sequence[str]:
        fields = ["Modality", "SeriesDescription", "NumberOfSeriesRelatedInstances", "SeriesInstanceUID"]
        found = [Dataset.from_json(told) for told in client.search_for_series(study_uid, fields=fields)]
        images = [series for series in found if dicom_file.text(series, "Modality") in IMAGES]
        if not images:
            raise NotFoundError(f"{where}: the PACS has no such study, or it holds no images; check the UID")
        mr = [series for series in images if dicom_file.text(series, "Modality") == "MR"]
        described = ((sequence_of_text(dicom_file.text(series, "SeriesDescription")), series) for series in mr)
        chosen = images if len(images) == 1 else four_of(described)
        if chosen is None:
            named = ", ".join(f"/series/{_described(series)}" for series in images[:NAMED_SERIES])
            more = ", ..." if len(images) > NAMED_SERIES else ""
            raise DataError(f"{where}: the study holds {len(images)} series; name one: {named}{more}")
        total = sum(int(series.get("NumberOfSeriesRelatedInstances") or 0) for series in chosen)
        limits.check_files(total, where=where)
        return [str(series.SeriesInstanceUID) for series in chosen]

    @contextlib.contextmanager
    def _client(self, where: str) -> Iterator[DICOMwebClient]:
        """A client whose failures are told in our words: what it raises may quote what the archive said."""
        with requests.Session() as session:
            session.trust_env = not is_loopback(urlsplit(self.url).hostname or "")
            headers = {"Authorization": self._authorization} if self._authorization else None
            client = DICOMwebClient(self.url, session=session, headers=headers, timeout=(CONNECT_S, READ_S))
            client.set_http_retry_params(max_attempts=ATTEMPTS, wait_exponential_multiplier=200)
            try:
                yield client
            except requests.HTTPError as error:
                raise self._refusal(error, where) from None
            except RetryError as error:
                status = error.last_attempt.value.status_code
                raise PacsError(f"{where}: the PACS is too busy (HTTP {status}, {ATTEMPTS} times); try later") from None
            except NONSENSE as error:
                raise PacsError(
                    f"{where}: the PACS gave an answer that is not understood ({type(error).__name__}); "
                    f"is {URL_VARIABLE} the root of its DICOMweb services?"
                ) from None
            except requests.RequestException as error:
                raise PacsError(
                    f"{where}: the PACS is out of reach ({type(error).__name__}); check {URL_VARIABLE} and that it runs"
                ) from None

    def _refusal(self, error: requests.HTTPError, where: str) -> PacsError | NotFoundError:
        status = 0 if error.response is None else error.response.status_code
        if status in DENIED:
            return PacsError(f"{where}: the PACS refuses this server (HTTP {status}); check {AUTHORIZATION_VARIABLE}")
        if status == ABSENT:
            return NotFoundError(f"{where}: the PACS has no such study or series; check the UIDs")
        kind = RefusedError if status in NO_STORAGE else PacsError
        return kind(f"{where}: the PACS answered HTTP {status}; see its log")


def _secret(environment: Mapping[str, str]) -> str:
    name = environment.get(AUTHORIZATION_FILE_VARIABLE, "")
    if not name:
        return environment.get(AUTHORIZATION_VARIABLE, "").strip()
    try:
        return Path(name).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{AUTHORIZATION_FILE_VARIABLE}={name}: not readable; name a file whose one line is the Authorization "
            "header, such as Basic dXNlcjpwYXNzd29yZA=="
        ) from error


def _write(image: Dataset, path: Path, where: str) -> int:
    """Write one image; gives its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with dicom_file.translated(where):
        image.save_as(path, enforce_file_format=True)
    return path.stat().st_size


def _described(series: Dataset) -> str:
    tag, count = dicom_file.text(series, "Modality"), dicom_file.text(series, "NumberOfSeriesRelatedInstances") or "?"
    return f"{dicom_file.text(series, 'SeriesInstanceUID')} ({tag}, {count} images)"


def stored_form(form: Form) -> tuple[Any, ...]:
    """Forms of DICOM SEG to try, in order."""
    tried: dict[Form, tuple[Any, ...]] = {
        "auto": ("LABELMAP", "BINARY"),
        "labelmap": ("LABELMAP",),
        "binary": ("BINARY",),
    }
    return tried[form]

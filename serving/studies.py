"""Uploaded studies behind random handles that only their own tenant can use, on a store that other processes may share.

The uploaded files are read once and gone; what is kept is the decoded study, without their headers (see
`vilam3.shelf`). Bounds drop what was used longest ago.
"""

import logging
import re
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from serving.attachments import read_attachments
from serving.wire import StudyInfo
from vilam3.artifacts import whole_directory
from vilam3.data.intake import Limits, read_study
from vilam3.data.nifti import write_volume
from vilam3.data.render import display_range
from vilam3.data.sample import Modality
from vilam3.data.study import Study
from vilam3.errors import ArtifactError, DataError, NotFoundError
from vilam3.scratch import scratch
from vilam3.services.memory import folder_of
from vilam3.shelf import GIB, NONE, STUDY_ID, Bounds, Shelf, content_of, drop_oldest, get_json, put_json, tenant_folder
from vilam3.sources.images import Sources

log = logging.getLogger(__name__)

COPY_BYTES = 1 << 20
LONGEST_NAME = 80
MOST_KNOWN = 4096  # studies that came within questions, whose references are known
MOST_LISTED = 100
ONE_UPLOAD = Limits(max_bytes=2 * GIB)
_ID = re.compile(STUDY_ID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One file as it came in; the name is the sender's."""

    name: str
    open: Callable[[], AbstractContextManager[BinaryIO]]


class StudyStore:
    """Keeps studies of all tenants apart; may be used from several threads and processes."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        limits: Limits = ONE_UPLOAD,
        bounds: Bounds | None = None,
        sweep_every_s: float = 0.0,
        sources: Sources | None = None,
    ) -> None:
        """Keep studies on `shelf`.

        Args:
            shelf: Where they are kept.
            limits: On one upload.
            bounds: On all studies together.
            sweep_every_s: Least time between two looks at the bounds; looking lists the whole store.
            sources: Where else images may come from; by default what the environment lists.

        Raises:
            UserError: the environment's lists are not understood.
        """
        self.shelf = shelf
        self.sources = Sources.from_environment() if sources is None else sources
        self.limits = limits
        self._bounds = bounds or Bounds()
        self._sweep_every_s = sweep_every_s
        self._lock = threading.Lock()
        self._swept_s = float("-inf")
        self._kept: OrderedDict[tuple[str, str, str], str] = OrderedDict()

    def add(self, tenant: str, uploads: Sequence[Upload], *, modality: Modality | None = None) -> StudyInfo:
        """Read an upload and keep it.

        Args:
            tenant: Whose it is.
            uploads: A DICOM file or several, a zip, NIfTI files, or one picture.
            modality: Overrides what the files say.

        Raises:
            DataError: it cannot be used; nothing is kept.
            ArtifactError: the store cannot take it.
        """
        with scratch() as folder:
            study = read_upload(uploads, folder / "images", modality=modality, limits=self.limits)
        return self.enlist(tenant, study)

    def attached(self, urls: Sequence[str], *, modality: Modality | None = None, part: str = "image_url") -> Study:
        """The study that data URLs carry, or addresses elsewhere name.

        Raises:
            DataError: one cannot be used, or is not permitted.
            NotFoundError: there is nothing there.
            UnsupportedError: one is neither.
            PacsError: the archive refuses or is out of reach.
        """
        return read_attachments(urls, sources=self.sources, limits=self.limits, modality=modality, part=part)

    def enlist(self, tenant: str, study: Study) -> StudyInfo:
        """Keep a study that has been read; returns what is said of it.

        Raises:
            ArtifactError: the store cannot take it.
        """
        return self._put(tenant, study)[1]

    def keep(self, tenant: str, study: Study) -> Study:
        """Keep a study that came within a question; returns it with its reference, the same one for the same content.

        Raises:
            ArtifactError: the store cannot take it.
        """
        if study.reference:
            return study
        # Of two series with the same content each keeps its own, since a result is filed under its series.
        name = tenant, study.digest, "" if study.source is None else study.source.series_uid
        with self._lock:
            reference = self._kept.get(name, "")
        try:
            if reference:
                return self.get(tenant, reference.rpartition("/")[2])
        except NotFoundError:
            pass  # forgotten meanwhile
        kept, _ = self._put(tenant, study)
        with self._lock:
            self._kept[name] = kept.reference
            while len(self._kept) > MOST_KNOWN:
                self._kept.popitem(last=False)
        return kept

    def packed(self, tenant: str, study_id: str) -> bytes:
        """The study as it is kept, decoded and without headers; see `vilam3.data.packed`.

        Raises:
            NotFoundError: there is none of that id for this tenant.
        """
        self._info(tenant, study_id)
        return self.shelf.objects.get(f"{_reference(tenant, study_id)}/study.zip")

    def _put(self, tenant: str, study: Study) -> tuple[Study, StudyInfo]:
        kept = self.shelf.put(tenant, study)
        info = _info(kept)
        put_json(self.shelf.objects, f"{kept.reference}/info.json", info.model_dump())
        self._sweep()
        return kept, info

    def info(self, tenant: str, study_id: str) -> StudyInfo:
        """What is known of a study.

        Raises:
            NotFoundError: there is none of that id for this tenant.
        """
        return StudyInfo.model_validate(self._info(tenant, study_id))

    def recent(self, tenant: str) -> list[StudyInfo]:
        """What is known of the tenant's studies, the one used last first; at most `MOST_LISTED`."""
        used_s = {
            entry.key: entry.modified_s
            for entry in self.shelf.objects.entries(f"{tenant_folder(tenant)}/studies")
            if entry.key.endswith("/info.json")
        }
        newest = sorted(used_s, key=lambda key: used_s[key], reverse=True)[:MOST_LISTED]
        return [StudyInfo.model_validate(told) for told in map(self._told, newest) if told is not None]

    def volume(self, tenant: str, study_id: str, number: int) -> BinaryIO:
        """A volume of a study as gzipped NIfTI, in a file that is gone when it is closed.

        Raises:
            NotFoundError: there is no such study for this tenant, or it has no such volume.
            ArtifactError: the store is damaged or out of reach.
        """
        study = self.get(tenant, study_id)
        if not 0 <= number < len(study.volumes):
            raise NotFoundError(f"volume {number}: the study has {len(study.volumes)}; they count from 0")
        volume = study.volumes[number]
        with scratch() as folder:
            path = folder / "volume.nii.gz"
            write_volume(path, volume, display=display_range(volume, modality=study.modality), durable=False)
            return path.open("rb")

    def get(self, tenant: str, study_id: str) -> Study:
        """The study itself; counts as a use.

        Raises:
            NotFoundError: there is none of that id for this tenant.
            ArtifactError: the store is damaged or out of reach.
        """
        info = self._info(tenant, study_id)
        study = self.shelf.get(_reference(tenant, study_id))
        put_json(self.shelf.objects, f"{study.reference}/info.json", info)
        return study

    def delete(self, tenant: str, study_id: str) -> None:
        """Forget a study and remove what is kept of it, findings of experts included.

        Raises:
            NotFoundError: there is none of that id for this tenant.
        """
        self._info(tenant, study_id)
        self.shelf.forget(_reference(tenant, study_id))
        self.shelf.objects.delete(folder_of(tenant, content_of(_reference(tenant, study_id))))

    @contextmanager
    def lent(
        self, tenant: str, study: Study | None, *, is_needed: bool = True, keeps: bool = False
    ) -> Iterator[Study | None]:
        """The study with a reference that other processes can follow.

        Args:
            tenant: Whose it is.
            study: Uploaded, sent along, or None.
            is_needed: Whether anybody follows references.
            keeps: Keep one that was only sent along, so that its question can be asked again.

        A store that cannot take it costs the experts elsewhere, which say so, and not the answer.
        """
        if study is None or study.reference or not (is_needed or keeps):
            yield study
            return
        try:
            kept = self.keep(tenant, study) if keeps else self.shelf.put(tenant, study)
        except (ArtifactError, OSError) as error:
            log.warning("study not kept: %s", type(error).__name__)
            yield study
            return
        try:
            yield kept
        finally:
            if not keeps:
                self.shelf.forget(kept.reference)

    def _info(self, tenant: str, study_id: str) -> dict[str, object]:
        # Another tenant's id must look exactly like one that never was.
        try:
            return get_json(self.shelf.objects, f"{_reference(tenant, study_id)}/info.json")
        except NotFoundError as error:
            raise NotFoundError(NONE) from error

    def _told(self, key: str) -> dict[str, object] | None:
        """A study's document, unless it was removed since it was listed."""
        try:
            return get_json(self.shelf.objects, key)
        except NotFoundError:
            return None

    def _sweep(self) -> None:
        with self._lock:
            if time.monotonic() - self._swept_s < self._sweep_every_s:
                return
            self._swept_s = time.monotonic()
        for reference in drop_oldest(self.shelf.objects, "studies", self._bounds):
            self.shelf.forget(reference)


def read_upload(
    uploads: Sequence[Upload], folder: Path, *, modality: Modality | None = None, limits: Limits = ONE_UPLOAD
) -> Study:
    """Read images by way of files in `folder`, which the caller removes.

    Raises:
        DataError: they cannot be used.
    """
    return read_study(_save(uploads, folder), modality=modality, limits=limits)


def _reference(tenant: str, study_id: str) -> str:
    if not _ID.fullmatch(study_id):
        raise NotFoundError(NONE)
    return f"{tenant_folder(tenant)}/studies/{study_id}"


def _save(uploads: Sequence[Upload], folder: Path) -> Path:
    """Copy the files whole into a new folder; a single file is returned as such, several as their folder."""
    if not uploads:
        raise DataError("upload: holds no file; send DICOM, zip, NIfTI, PNG or JPEG as multipart/form-data")
    names: list[str] = []
    with whole_directory(folder) as partial:
        inner = partial / "upload"
        inner.mkdir()
        for upload in uploads:
            names.append(_safe_name(upload.name, taken=names))
            with upload.open() as source, (inner / names[-1]).open("wb") as target:
                shutil.copyfileobj(source, target, COPY_BYTES)
    inner = folder / "upload"
    return inner / names[0] if len(names) == 1 else inner


def _safe_name(name: str, *, taken: Sequence[str]) -> str:
    """The sender's file name as far as readers need it (suffix, MR sequence), without what could lead elsewhere."""
    bare = re.sub(r"[^A-Za-z0-9._-]", "_", name.replace("\\", "/").rsplit("/", 1)[-1])[-LONGEST_NAME:].lstrip(".")
    bare = bare or "file"
    return f"{len(taken)}_{bare}" if bare in taken else bare


def _info(study: Study) -> StudyInfo:
    return StudyInfo(
        id=study.reference.rpartition("/")[2],
        reference=study.reference,
        modality=study.modality,
        num_slices=study.num_slices,
        num_views=max(1, len(study.volumes)),
        volumes=[volume.sequence for volume in study.volumes],
        series=study.series,
        warnings=list(study.warnings),
        created=int(time.time()),
    )

"""Uploaded studies: private files on disk behind random handles that only their own tenant can use.

The uploaded bytes are kept while the server runs, decoded studies only as long as memory allows; both bounds drop what
was used longest ago. Nothing survives the server.
"""

import re
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from serving.wire import StudyInfo
from vilam3.artifacts import whole_directory
from vilam3.data.intake import Limits, read_study
from vilam3.data.sample import Modality
from vilam3.data.study import Study
from vilam3.errors import DataError, NotFoundError

COPY_BYTES = 1 << 20
LONGEST_NAME = 80
GIB = 1 << 30
ONE_UPLOAD = Limits(max_bytes=2 * GIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One file as it came in; the name is the sender's."""

    name: str
    open: Callable[[], AbstractContextManager[BinaryIO]]


@dataclass(slots=True, kw_only=True)
class _Entry:
    tenant: str
    path: Path
    info: StudyInfo
    modality: Modality | None
    num_bytes: int


class StudyStore:
    """Keeps studies of all tenants apart; may be used from several threads."""

    def __init__(
        self,
        root: Path,
        *,
        limits: Limits = ONE_UPLOAD,
        max_studies: int = 256,
        max_disk_bytes: int = 8 * GIB,
        max_memory_bytes: int = 2 * GIB,
    ) -> None:
        """Keep files below `root`, which belongs to this store alone."""
        self._root = root
        self._limits = limits
        self._max_studies = max_studies
        self._max_disk_bytes = max_disk_bytes
        self._max_memory_bytes = max_memory_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._decoded: OrderedDict[str, Study] = OrderedDict()
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)

    def add(self, tenant: str, uploads: Sequence[Upload], *, modality: Modality | None = None) -> StudyInfo:
        """Read an upload and keep it.

        Args:
            tenant: Whose it is.
            uploads: A DICOM file or several, a zip, NIfTI files, or one picture.
            modality: Overrides what the files say.

        Raises:
            DataError: it cannot be used; nothing is kept.
        """
        study_id = f"study-{secrets.token_hex(16)}"
        folder = self._root / study_id
        try:
            path = _save(uploads, folder)
            study = read_study(path, modality=modality, limits=self._limits)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        entry = _Entry(
            tenant=tenant,
            path=path,
            info=_info(study_id, study),
            modality=modality,
            num_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        )
        with self._lock:
            self._entries[study_id] = entry
            self._remember(study_id, study)
            self._drop_oldest()
        return entry.info

    def info(self, tenant: str, study_id: str) -> StudyInfo:
        """What is known of a study.

        Raises:
            NotFoundError: there is none of that id for this tenant.
        """
        with self._lock:
            return self._entry(tenant, study_id).info

    def get(self, tenant: str, study_id: str) -> Study:
        """The study itself, decoded again where memory was needed for others.

        Raises:
            NotFoundError: there is none of that id for this tenant.
        """
        with self._lock:
            entry = self._entry(tenant, study_id)
            if study_id in self._decoded:
                self._decoded.move_to_end(study_id)
                return self._decoded[study_id]
        study = read_study(entry.path, modality=entry.modality, limits=self._limits)
        with self._lock:
            self._remember(study_id, study)
        return study

    def delete(self, tenant: str, study_id: str) -> None:
        """Forget a study and remove its files.

        Raises:
            NotFoundError: there is none of that id for this tenant.
        """
        with self._lock:
            self._entry(tenant, study_id)
            self._drop(study_id)

    def _entry(self, tenant: str, study_id: str) -> _Entry:
        entry = self._entries.get(study_id)
        # Another tenant's id must look exactly like one that never was.
        if entry is None or entry.tenant != tenant:
            raise NotFoundError(
                "study: there is none of that id; it was deleted, expired or never uploaded, upload it again"
            )
        self._entries.move_to_end(study_id)
        return entry

    def _remember(self, study_id: str, study: Study) -> None:
        if study_id not in self._entries:
            return
        self._decoded[study_id] = study
        while len(self._decoded) > 1 and sum(map(_memory_bytes, self._decoded.values())) > self._max_memory_bytes:
            self._decoded.popitem(last=False)

    def _drop_oldest(self) -> None:
        def too_much() -> bool:
            used = sum(entry.num_bytes for entry in self._entries.values())
            return len(self._entries) > self._max_studies or used > self._max_disk_bytes

        while len(self._entries) > 1 and too_much():
            self._drop(next(iter(self._entries)))

    def _drop(self, study_id: str) -> None:
        del self._entries[study_id]
        self._decoded.pop(study_id, None)
        shutil.rmtree(self._root / study_id, ignore_errors=True)


def read_upload(uploads: Sequence[Upload], scratch: Path, *, modality: Modality | None = None) -> Study:
    """Read images that are not kept, by way of files in `scratch`, which the caller removes.

    Raises:
        DataError: they cannot be used.
    """
    return read_study(_save(uploads, scratch), modality=modality, limits=ONE_UPLOAD)


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


def _info(study_id: str, study: Study) -> StudyInfo:
    return StudyInfo(
        id=study_id,
        modality=study.modality,
        num_slices=study.num_slices,
        num_views=max(1, len(study.volumes)),
        series=study.series,
        warnings=list(study.warnings),
        created=int(time.time()),
    )


def _memory_bytes(study: Study) -> int:
    flat = [array for array in (study.radiograph_HW, study.picture_HWC) if array is not None]
    return sum(volume.voxels_XYZ.nbytes for volume in study.volumes) + sum(array.nbytes for array in flat)

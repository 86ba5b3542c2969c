"""Studies on an object store, where several orchestrators and the experts see the same ones.

What is kept is the decoded study, which holds pixels and geometry but no header; the few tags that a result must be
filed under lie beside it (`source.json`), and only who files one reads them. Keys are
bound to the tenant (a digest of its name) and to the study's content, and end in a random part, so that nobody can
guess one: ``tenants/<tenant>/studies/study-<content>-<random>``. That key is the study's reference; experts are sent it
in place of a volume.
"""

import hashlib
import json
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from vilam3.data.dicom_source import DicomSource
from vilam3.data.limits import Limits
from vilam3.data.nifti import write_label_map
from vilam3.data.packed import pack, unpack
from vilam3.data.study import Study
from vilam3.errors import ArtifactError, NotFoundError
from vilam3.experts.protocol import LabelMap
from vilam3.objects import ObjectStore
from vilam3.scratch import scratch

STUDIES_VARIABLE = "VILAM3_STUDIES_URI"
TENANTS = "tenants"
STUDY_ID = r"study-[0-9a-f]{32}-[0-9a-f]{32}"
REFERENCE = re.compile(rf"{TENANTS}/[0-9a-f]{{32}}/studies/{STUDY_ID}")
DIGEST_LETTERS = 32
GIB = 1 << 30
NONE = "study: there is none of that id; it was deleted, expired or never uploaded, upload it again"
Kind = Literal["studies", "answers", "findings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is kept; what was used longest ago goes first.

    Attributes:
        max_count: Studies, or answers.
        max_bytes: Of all of them.
        max_age_s: Since the last use.
    """

    max_count: int = 256
    max_bytes: int = 8 * GIB
    max_age_s: float = 7 * 24 * 3600.0


def tenant_folder(tenant: str) -> str:
    """Where a tenant's things are; its name does not follow from it."""
    digest = hashlib.sha256(f"vilam3 tenant\0{tenant}".encode()).hexdigest()
    return f"{TENANTS}/{digest[:DIGEST_LETTERS]}"


class Shelf:
    """Keeps studies apart by tenant; remembers decoded ones as far as memory allows. Safe to share between threads."""

    def __init__(self, objects: ObjectStore, *, limits: Limits | None = None, max_memory_bytes: int = 2 * GIB) -> None:
        """Keep studies in `objects`.

        Args:
            objects: Shared with all who are to see them.
            limits: On what is unpacked.
            max_memory_bytes: Decoded studies kept at hand.
        """
        self.objects = objects
        self._limits = limits or Limits()
        self._max_memory_bytes = max_memory_bytes
        self._lock = threading.Lock()
        self._decoded: OrderedDict[str, Study] = OrderedDict()

    def put(self, tenant: str, study: Study) -> Study:
        """Keep a study; returns it with its reference.

        Raises:
            ArtifactError: it cannot be written.
        """
        study_id = f"study-{study.digest[:DIGEST_LETTERS]}-{secrets.token_hex(16)}"
        kept = replace(study, reference=f"{tenant_folder(tenant)}/studies/{study_id}")
        with scratch() as folder:
            file = folder / "study.zip"
            pack(study, file)
            self.objects.put(f"{kept.reference}/study.zip", file)
        if study.source is not None and study.source.is_filed:
            put_json(self.objects, f"{kept.reference}/source.json", study.source.as_json())
        self._remember(kept)
        return kept

    def get(self, reference: str) -> Study:
        """The study of a reference.

        Raises:
            NotFoundError: there is none.
            ArtifactError: it is damaged, or the store is out of reach.
        """
        check_reference(reference)
        with self._lock:
            if reference in self._decoded:
                self._decoded.move_to_end(reference)
                return self._decoded[reference]
        study = unpack(_found(self.objects, f"{reference}/study.zip"), limits=self._limits)
        if not reference.rpartition("/")[2].startswith(f"study-{study.digest[:DIGEST_LETTERS]}-"):
            raise ArtifactError("study: its content is not the one its reference names; upload the study again")
        kept = replace(study, reference=reference)
        self._remember(kept)
        return kept

    def source(self, study: Study) -> DicomSource | None:
        """The DICOM series of a study; one that was read from the store does not carry it.

        Raises:
            ArtifactError: it is damaged, or the store is out of reach.
        """
        if study.source is not None or not study.reference:
            return study.source
        try:
            return DicomSource.from_json(get_json(self.objects, f"{check_reference(study.reference)}/source.json"))
        except NotFoundError:
            return None

    def put_mask(self, study: Study, mask: LabelMap) -> str:
        """Keep a segmentation beside its study, on the grid the study was sent in; returns its key.

        Raises:
            ArtifactError: it cannot be written.
        """
        key = f"{check_reference(study.reference)}/masks/{secrets.token_hex(16)}.nii.gz"
        with scratch() as folder:
            file = folder / "mask.nii.gz"
            write_label_map(file, mask.ids_XYZ, like=study.volumes[0], names=mask.names, durable=False)
            self.objects.put(key, file)
        return key

    def forget(self, reference: str) -> None:
        """Remove a study and what lies beside it."""
        with self._lock:
            self._decoded.pop(reference, None)
        self.objects.delete(check_reference(reference))

    def _remember(self, study: Study) -> None:
        with self._lock:
            self._decoded[study.reference] = study
            while len(self._decoded) > 1 and sum(map(memory_bytes, self._decoded.values())) > self._max_memory_bytes:
                self._decoded.popitem(last=False)


def check_reference(reference: str) -> str:
    """The reference, if it has the form of one.

    Raises:
        NotFoundError: it has not.
    """
    if not REFERENCE.fullmatch(reference):
        raise NotFoundError(NONE)
    return reference


def content_of(reference: str) -> str:
    """The beginning of the digest that a study was put with; empty for what is no reference."""
    return reference.rpartition("/")[2].split("-")[1] if REFERENCE.fullmatch(reference) else ""


def put_json(objects: ObjectStore, key: str, value: Mapping[str, Any]) -> None:
    """Keep a small JSON document."""
    objects.put(key, json.dumps(value, sort_keys=True, allow_nan=False).encode())


def get_json(objects: ObjectStore, key: str) -> dict[str, Any]:
    """A small JSON document.

    Raises:
        NotFoundError: there is none of that key.
        ArtifactError: it is damaged.
    """
    try:
        value: dict[str, Any] = json.loads(objects.get(key))
    except ValueError as error:
        raise ArtifactError("store: a document is damaged; upload the study again") from error
    return value


def drop_oldest(objects: ObjectStore, kind: Kind, bounds: Bounds) -> list[str]:
    """Remove what exceeds the bounds, over all tenants; returns the folders removed."""
    used: dict[str, tuple[float, int]] = {}
    for entry in objects.entries(TENANTS):
        parts = entry.key.split("/")
        if len(parts) > 4 and parts[2] == kind:  # noqa: PLR2004 - tenants/<tenant>/<kind>/<name>/<file>
            modified_s, num_bytes = used.get(folder := "/".join(parts[:4]), (0.0, 0))
            used[folder] = max(modified_s, entry.modified_s), num_bytes + entry.num_bytes
    newest_first = sorted(used, key=lambda folder: used[folder], reverse=True)
    dropped, total_bytes, oldest_s = [], 0, time.time() - bounds.max_age_s
    for rank, folder in enumerate(newest_first):
        modified_s, num_bytes = used[folder]
        total_bytes += num_bytes
        if rank and (rank >= bounds.max_count or total_bytes > bounds.max_bytes or modified_s < oldest_s):
            objects.delete(folder)
            dropped.append(folder)
    return dropped


def memory_bytes(study: Study) -> int:
    """What a decoded study takes."""
    flat = [array for array in (study.radiograph_HW, study.picture_HWC) if array is not None]
    return sum(volume.voxels_XYZ.nbytes for volume in study.volumes) + sum(array.nbytes for array in flat)


def _found(objects: ObjectStore, key: str) -> bytes:
    try:
        return objects.get(key)
    except NotFoundError as error:
        raise NotFoundError(NONE) from error

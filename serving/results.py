"""What answers leave behind: the answer as JSON, overlays as PNG, masks as NIfTI, where every orchestrator sees them.

Beside a mask of DICOM images lies what a DICOM SEG of it must refer to (see `serving.exports`). Bounded: the oldest
answer goes first. Keys are random handles below the tenant's, like those of studies.
"""

import io
import re
import secrets
import threading
import time
from typing import Any

from serving.provenance import Record
from vilam3.data.dicom_source import DicomSource
from vilam3.data.nifti import write_label_map
from vilam3.data.study import Study
from vilam3.errors import NotFoundError
from vilam3.experts.protocol import ExpertResult
from vilam3.objects import ObjectStore
from vilam3.scratch import scratch
from vilam3.services.memory import is_remembered
from vilam3.shelf import Bounds, drop_oldest, put_json, tenant_folder

_SHAPE = re.compile(r"chatcmpl-[0-9a-f]{32}")
REPLAY = "replay.json"
NONE = "result: there is none of that name; answers are kept for a while only, ask again"


class ResultStore:
    """Keeps answers of all tenants apart; may be used from several threads and processes."""

    def __init__(self, objects: ObjectStore, *, bounds: Bounds | None = None, sweep_every_s: float = 0.0) -> None:
        """Keep answers in `objects`.

        Args:
            objects: Where they are kept.
            bounds: On all answers together.
            sweep_every_s: Least time between two looks at the bounds; looking lists the whole store.
        """
        self._objects = objects
        self._bounds = bounds or Bounds(max_count=512)
        self._sweep_every_s = sweep_every_s
        self._lock = threading.Lock()
        self._swept_s = float("-inf")

    @staticmethod
    def new_id() -> str:
        """A handle nobody can guess."""
        return f"chatcmpl-{secrets.token_hex(16)}"

    def keep_pictures(
        self,
        tenant: str,
        answer_id: str,
        number: int,
        result: ExpertResult,
        *,
        study: Study,
        source: DicomSource | None = None,
    ) -> dict[str, str]:
        """Keep the overlay and mask of one expert call; returns their URLs on this server by kind.

        Args:
            tenant: Whose they are.
            answer_id: Of the answer.
            number: Of the expert call.
            result: What the expert found.
            study: What it looked at.
            source: The DICOM series that it was read from.

        Raises:
            ArtifactError: they cannot be written.
        """
        folder = _folder(tenant, answer_id)
        urls: dict[str, str] = {}
        if result.overlay is not None:
            picture = io.BytesIO()
            result.overlay.save(picture, format="PNG")
            self._objects.put(f"{folder}/overlay-{number}.png", picture.getvalue())
            urls["overlay_url"] = f"/v1/results/{answer_id}/overlays/{number}.png"
        if self._keep_mask(f"{folder}/mask-{number}.nii.gz", result, study):
            urls["mask_url"] = f"/v1/results/{answer_id}/masks/{number}.nii.gz"
            if source is not None and source.is_filed:
                put_json(self._objects, f"{folder}/{source_name(number)}", _origin(result, source))
                urls["segmentation_url"] = f"/v1/results/{answer_id}/segmentations/{number}.dcm"
        return urls

    def keep(self, tenant: str, answer_id: str, name: str, content: bytes) -> None:
        """Keep one more file of an answer that is kept.

        Raises:
            ArtifactError: it cannot be written.
        """
        self._objects.put(f"{_folder(tenant, answer_id)}/{name}", content)

    def _keep_mask(self, key: str, result: ExpertResult, study: Study) -> bool:
        if result.mask_reference:
            self._objects.copy(result.mask_reference, key)
            if not is_remembered(result.mask_reference):
                self._objects.delete(result.mask_reference)
            return True
        if result.mask is None or not study.volumes:
            return False
        with scratch() as folder:
            file = folder / "mask.nii.gz"
            write_label_map(file, result.mask.ids_XYZ, like=study.volumes[0], names=result.mask.names, durable=False)
            self._objects.put(key, file)
        return True

    def keep_answer(self, tenant: str, answer_id: str, answer: dict[str, Any], *, record: Record) -> None:
        """Keep the answer itself, and how to ask for it again.

        Raises:
            ArtifactError: it cannot be written.
        """
        told = record.model_dump(mode="json", exclude_defaults=True) | {"format": record.format}
        put_json(self._objects, f"{_folder(tenant, answer_id)}/{REPLAY}", told)
        put_json(self._objects, f"{_folder(tenant, answer_id)}/answer.json", answer)
        with self._lock:
            if time.monotonic() - self._swept_s < self._sweep_every_s:
                return
            self._swept_s = time.monotonic()
        drop_oldest(self._objects, "answers", self._bounds)

    def get(self, tenant: str, answer_id: str, name: str) -> bytes:
        """One kept file.

        Raises:
            NotFoundError: this tenant has no such answer, or the answer no such file.
            ArtifactError: the store is out of reach.
        """
        if not _SHAPE.fullmatch(answer_id):
            raise NotFoundError(NONE)
        try:
            return self._objects.get(f"{_folder(tenant, answer_id)}/{name}")
        except NotFoundError as error:
            raise NotFoundError(NONE) from error


def source_name(number: int) -> str:
    """The file with what a DICOM SEG of an expert call refers to."""
    return f"source-{number}.json"


def _origin(result: ExpertResult, source: DicomSource) -> dict[str, Any]:
    found = result.provenance
    author = {"expert": found.expert, "version": found.version, "digest": found.weights_digest}
    return {"author": author, "source": source.as_json()}


def _folder(tenant: str, answer_id: str) -> str:
    return f"{tenant_folder(tenant)}/answers/{answer_id}"

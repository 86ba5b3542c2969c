"""What answers leave behind while the server runs: the answer as JSON, overlays as PNG, masks as NIfTI.

Bounded: the oldest answer goes first. Names are random handles bound to a tenant, like those of studies.
"""

import re
import secrets
import shutil
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from vilam3.artifacts import whole_file, write_json
from vilam3.data.nifti import write_label_map
from vilam3.data.study import Study
from vilam3.errors import NotFoundError
from vilam3.experts.protocol import ExpertResult

_SHAPE = re.compile(r"chatcmpl-[0-9a-f]{32}")


class ResultStore:
    """Keeps answers of all tenants apart; may be used from several threads."""

    def __init__(self, root: Path, *, max_answers: int = 512) -> None:
        """Keep files below `root`, which belongs to this store alone."""
        self._root = root
        self._max_answers = max_answers
        self._lock = threading.Lock()
        self._owners: OrderedDict[str, str] = OrderedDict()
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)

    @staticmethod
    def new_id() -> str:
        """A handle nobody can guess."""
        return f"chatcmpl-{secrets.token_hex(16)}"

    def open(self, answer_id: str, tenant: str) -> None:
        """Let `tenant` see what will be kept of an answer; the oldest answers go where there are too many."""
        with self._lock:
            self._owners[answer_id] = tenant
            while len(self._owners) > self._max_answers:
                oldest, _ = self._owners.popitem(last=False)
                shutil.rmtree(self._root / oldest, ignore_errors=True)

    def keep_pictures(self, answer_id: str, number: int, result: ExpertResult, *, study: Study) -> dict[str, str]:
        """Write the overlay and mask of one expert call; returns their URLs on this server by kind.

        Raises:
            ArtifactError: they cannot be written.
        """
        urls: dict[str, str] = {}
        if result.overlay is not None:
            with whole_file(self._root / answer_id / f"overlay-{number}.png") as partial:
                result.overlay.save(partial, format="PNG")
            urls["overlay_url"] = f"/v1/results/{answer_id}/overlays/{number}.png"
        if result.mask is not None and study.volumes:
            path = self._root / answer_id / f"mask-{number}.nii.gz"
            write_label_map(path, result.mask.ids_XYZ, like=study.volumes[0])
            urls["mask_url"] = f"/v1/results/{answer_id}/masks/{number}.nii.gz"
        return urls

    def keep_answer(self, answer_id: str, answer: dict[str, Any]) -> None:
        """Write the answer itself.

        Raises:
            ArtifactError: it cannot be written.
        """
        write_json(self._root / answer_id / "answer.json", answer)

    def file(self, tenant: str, answer_id: str, name: str) -> Path:
        """The path of a kept file.

        Raises:
            NotFoundError: this tenant has no such answer, or the answer no such file.
        """
        with self._lock:
            owner = self._owners.get(answer_id) if _SHAPE.fullmatch(answer_id) else None
        path = self._root / answer_id / name
        if owner is None or owner != tenant or not path.is_file():
            raise NotFoundError("result: there is none of that name; answers are kept for a while only, ask again")
        return path

"""What experts have found, remembered: the same question to the same model about the same images is not computed again.

A finding is remembered under tenant, content of the study, expert, argument, slice, points, wording, and the version
and weights of the model that found it; whatever of these is not known is not looked up. It lies in the shared store,
``tenants/<tenant>/findings/<content>/<key>``, so that all orchestrators profit; who forgets a study forgets its
findings.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256

from pydantic import ValidationError

from vilam3.data.nifti import write_label_map
from vilam3.data.sample import Dialect
from vilam3.data.study import Study
from vilam3.dialogue.panel import Ask
from vilam3.errors import ArtifactError, DataError, NotFoundError
from vilam3.experts.protocol import ExpertCall, ExpertResult, Point, Watch
from vilam3.objects import ObjectStore
from vilam3.scratch import scratch
from vilam3.services.findings import Finding
from vilam3.services.flights import Flights
from vilam3.shelf import DIGEST_LETTERS, Bounds, content_of, drop_oldest, tenant_folder

FOLDER = "findings"
MOST_STUDIES = 10_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """How an expert is asked, beside its call.

    Attributes:
        tenant: On whose behalf.
        study: What is looked at.
        slice_index: The slice that is shown; None without slices.
        points: Places that say what is sought.
        dialect: Wording of the finding.
    """

    tenant: str
    study: Study
    slice_index: int | None
    points: Sequence[Point] = ()
    dialect: Dialect = "demo"

    def folder(self) -> str:
        """Where findings about this study lie."""
        return folder_of(self.tenant, content_of(self.study.reference) or self.study.digest[:DIGEST_LETTERS])

    def key(self, call: ExpertCall, model: str) -> str:
        """The key of one finding of one model."""
        points = [asdict(point) for point in self.points]
        told = [call.expert, call.argument, self.slice_index, points, self.dialect, self.study.digest, model]
        return f"{self.folder()}/{sha256(json.dumps(told).encode()).hexdigest()}"


class FindingMemory:
    """Remembers findings in a store; may be used from several threads and processes."""

    def __init__(self, objects: ObjectStore, *, bounds: Bounds | None = None, sweep_every_s: float = 60.0) -> None:
        """Remember in `objects`.

        Args:
            objects: Where.
            bounds: On the studies of which findings are remembered; those used longest ago go first.
            sweep_every_s: Least time between two looks at the bounds; looking lists the whole store.
        """
        self._objects = objects
        self._bounds = bounds or Bounds(max_count=MOST_STUDIES)
        self._sweep_every_s = sweep_every_s
        self._flights = Flights()
        self._lock = threading.Lock()
        self._swept_s = time.monotonic()

    def through(self, ask: Ask, looking: Looking, *, model_of: Callable[[str], str]) -> Ask:
        """The same as `ask`, but what is remembered is not asked again, and what is being found is waited for.

        Args:
            ask: Runs an expert.
            looking: How it is asked.
            model_of: What tells apart the models that an expert's name stands for over time; empty if unknown.
        """

        def remembering(call: ExpertCall, watch: Watch) -> ExpertResult:
            model = model_of(call.expert)
            key = looking.key(call, model)

            def run(watch: Watch) -> ExpertResult:
                found = self._recall(key, looking) if model else None
                if found is not None:
                    return replace(found, is_remembered=True)
                return self._keep(ask(call, watch), call, looking)

            return self._flights.join(key, run, watch)

        return remembering

    def _recall(self, key: str, looking: Looking) -> ExpertResult | None:
        try:
            finding = Finding.model_validate_json(self._objects.get(f"{key}.json"))
            found = finding.result()
        except NotFoundError:
            return None
        except (ArtifactError, DataError, ValidationError) as error:
            log.warning("finding not recalled: %s", type(error).__name__)
            return None
        return found if found.provenance.study_digest == looking.study.digest else None

    def _keep(self, result: ExpertResult, call: ExpertCall, looking: Looking) -> ExpertResult:
        """Remember a new finding; its segmentation then lies in the memory too."""
        key = looking.key(call, result.provenance.model)
        try:
            mask = self._keep_mask(f"{key}.nii.gz", result, looking.study)
            self._objects.put(f"{key}.json", Finding.of(result, mask=mask).model_dump_json().encode())
            self._sweep()
        except (ArtifactError, NotFoundError, OSError) as error:
            log.warning("finding not remembered: %s", type(error).__name__)  # it is given all the same
            return result
        return result if mask is None or result.mask_reference else replace(result, mask_reference=mask)

    def _keep_mask(self, key: str, result: ExpertResult, study: Study) -> str | None:
        if result.mask_reference:
            self._objects.copy(result.mask_reference, key)
        elif result.mask is not None and study.volumes:
            with scratch() as folder:
                file = folder / "mask.nii.gz"
                write_label_map(
                    file, result.mask.ids_XYZ, like=study.volumes[0], names=result.mask.names, durable=False
                )
                self._objects.put(key, file)
        else:
            return None
        return key

    def _sweep(self) -> None:
        with self._lock:
            if time.monotonic() - self._swept_s < self._sweep_every_s:
                return
            self._swept_s = time.monotonic()
        drop_oldest(self._objects, "findings", self._bounds)


def folder_of(tenant: str, content: str) -> str:
    """Where findings about a study lie, by the beginning of the digest it was uploaded with."""
    return f"{tenant_folder(tenant)}/{FOLDER}/{content}"


def is_remembered(reference: str) -> bool:
    """Whether a segmentation lies in the memory, from which nobody else removes anything."""
    return f"/{FOLDER}/" in reference

"""CXR: classifies findings on chest radiographs with an ensemble in torchxrayvision's weight format."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from vilam3.data.render import radiograph_grey_HW
from vilam3.data.sample import Dialect, Modality
from vilam3.data.study import Study
from vilam3.errors import ExpertError, NotFoundError
from vilam3.experts.cxr_ensemble import PLAN, Ensemble, Plan, read_plan
from vilam3.experts.facts import ARGUMENTS, card
from vilam3.experts.findings import Origin, cxr_result
from vilam3.experts.protocol import ExpertResult, Point, Watch, refuse_points, unwatched
from vilam3.experts.shared import shared
from vilam3.experts.warmth import radiograph_study

NAME = "CXR"
FOLDER = "cxr"


class Cxr:
    """The expert; see `vilam3.experts.protocol.Expert`."""

    name: str = NAME
    modality: Modality = "CXR"
    card: str = card(NAME)
    arguments: tuple[str, ...] = ARGUMENTS[NAME]

    def __init__(self, folder: Path, plan: Plan, *, dialect: Dialect, device: str = "cpu") -> None:
        """Name the ensemble; its networks are loaded with the first study."""
        self.folder = folder
        self.plan = plan
        self._dialect = dialect
        self._device = device
        self._lock = threading.Lock()
        self._loaded: Ensemble | None = None

    def run(
        self,
        study: Study,
        argument: str = "",
        *,
        slice_index: int | None = None,
        points: Sequence[Point] = (),
        watch: Watch = unwatched,
    ) -> ExpertResult:
        """Score every label.

        Args:
            study: A chest radiograph.
            argument: Ignored, as published.
            slice_index: Ignored; a radiograph has one.
            points: None are taken.
            watch: Told how far it is.

        Raises:
            ExpertError: no radiograph.
            CheckpointError: the weights cannot be used.
        """
        del argument, slice_index
        refuse_points(points, name=NAME)
        started = time.perf_counter()
        if study.modality != "CXR" or study.radiograph_HW is None:
            raise ExpertError(
                f"{NAME} reads chest radiographs, but this study is {study.modality}; name its modality if that is "
                f"wrong, or ask another expert."
            )
        with self._lock:
            ensemble = self._load()
            scores = ensemble.score(radiograph_grey_HW(study.radiograph_HW), watch=watch)
        origin = Origin(expert=NAME, version=self.plan.version, weights_digest=ensemble.weights_digest, started=started)
        return cxr_result(study, scores, origin=origin, dialect=self._dialect, untrained=self.plan.untrained)

    def warm_up(self) -> None:
        """Load the network and run it once on a small study.

        Raises:
            CheckpointError: the weights cannot be used.
        """
        self.run(radiograph_study())

    @property
    def known_digest(self) -> str:
        """Of the weights, once they have been read."""
        return "" if self._loaded is None else self._loaded.weights_digest

    def _load(self) -> Ensemble:
        if self._loaded is None:
            self._loaded = shared(
                lambda: Ensemble(self.folder, self.plan, device=self._device),
                files=[self.folder / PLAN, *(self.folder / member.file for member in self.plan.members)],
                name=(Cxr, self._device),
            )
        return self._loaded


def create(root: Path, *, dialect: Dialect = "demo", device: str = "cpu") -> Cxr:
    """Open the expert below a directory of experts.

    Args:
        root: Holds ``cxr/`` with the published weight files, or with others that its ``ensemble.json`` describes.
        dialect: Wording of its text.
        device: Torch device name.

    Raises:
        NotFoundError: it is not there.
        CheckpointError: its ``ensemble.json`` cannot be used.
    """
    folder = root / FOLDER
    if not folder.is_dir():
        raise NotFoundError(f"CXR ensemble {folder}: no such directory; put the weights there or fit a small one")
    return Cxr(folder, read_plan(folder), dialect=dialect, device=device)

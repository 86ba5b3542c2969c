"""BRATS: segments gliomas in brain MRI of four sequences with a MONAI bundle."""

import time
from collections.abc import Sequence
from pathlib import Path

from vilam3.data.sample import Dialect, Modality
from vilam3.data.sequences import MR_SEQUENCES
from vilam3.data.study import Study
from vilam3.errors import ExpertError
from vilam3.experts.bundle import Bundle
from vilam3.experts.facts import ARGUMENTS, card
from vilam3.experts.findings import Origin, brats_result
from vilam3.experts.protocol import ExpertResult, Point, Watch, refuse_points, unwatched
from vilam3.experts.warmth import volumes_study

NAME = "BRATS"
FOLDER = "brats_mri_segmentation"


class Brats:
    """The expert; see `vilam3.experts.protocol.Expert`."""

    name: str = NAME
    modality: Modality = "MRI"
    card: str = card(NAME)
    arguments: tuple[str, ...] = ARGUMENTS[NAME]

    def __init__(self, bundle: Bundle, *, dialect: Dialect) -> None:
        """Wrap an opened bundle."""
        self.bundle = bundle
        self._dialect = dialect

    def run(
        self,
        study: Study,
        argument: str = "",
        *,
        slice_index: int | None = None,
        points: Sequence[Point] = (),
        watch: Watch = unwatched,
    ) -> ExpertResult:
        """Segment the tumour and show one slice of the first sequence.

        Args:
            study: MRI with the four sequences in the order of `MR_SEQUENCES`.
            argument: Ignored, as published.
            slice_index: Axial slice; None is the middle one.
            points: None are taken.
            watch: Told how far it is.

        Raises:
            ExpertError: no MRI of four sequences.
            DataError: the slice is out of range.
        """
        del argument
        refuse_points(points, name=NAME)
        started = time.perf_counter()
        _check(study)
        ids_XYZ = self.bundle.segment(study.volumes, watch=watch)
        origin = Origin(
            expert=NAME,
            version=self.bundle.version,
            weights_digest=self.bundle.weights_digest,
            started=started,
        )
        return brats_result(study, ids_XYZ, origin=origin, dialect=self._dialect, slice_index=slice_index)

    def warm_up(self) -> None:
        """Load the network and run it once on a small study.

        Raises:
            CheckpointError: the weights cannot be used.
        """
        self.bundle.warm_up(volumes_study("MRI", sequences=MR_SEQUENCES).volumes)


def create(root: Path, *, dialect: Dialect = "demo", device: str = "cpu") -> Brats:
    """Open the expert below a directory of experts.

    Args:
        root: Holds ``brats_mri_segmentation/``.
        dialect: Wording of its text.
        device: Torch device name.

    Raises:
        NotFoundError: it is not there.
        CheckpointError: it is damaged.
    """
    return Brats(Bundle.open(root / FOLDER, device=device), dialect=dialect)


def _check(study: Study) -> None:
    if study.modality != "MRI":
        raise ExpertError(
            f"{NAME} reads brain MRI, but this study is {study.modality}; name its modality if that is wrong, or ask "
            f"another expert."
        )
    given = tuple(volume.sequence for volume in study.volumes)
    if len(given) != len(MR_SEQUENCES) or (any(given) and given != MR_SEQUENCES):
        names = ", ".join(name or "unnamed" for name in given)
        raise ExpertError(
            f"{NAME} needs four sequences of one brain MRI, {', '.join(MR_SEQUENCES)}, but this study has {len(given)} "
            f"({names}); send all four together."
        )

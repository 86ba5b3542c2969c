"""What an expert is and what it gives back; imports no network library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vilam3.data.sample import Modality
from vilam3.data.study import Study
from vilam3.errors import ExpertError

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number an expert stands for."""

    label: str
    quantity: str
    value: float
    unit: str


def model_of(version: str, weights_digest: str) -> str:
    """One name for a version and its weights, which change apart from each other; empty if either is not known."""
    return f"{version} {weights_digest}" if version and weights_digest else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a finding comes from, enough to obtain it again."""

    expert: str
    version: str
    weights_digest: str
    argument: str
    study_digest: str
    series: str
    slice_index: int | None
    seconds: float
    created_at: str

    @property
    def model(self) -> str:
        """What tells its model from others of the same name; see `model_of`."""
        return model_of(self.version, self.weights_digest)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelMap:
    """A segmentation on the study's own grid.

    Attributes:
        ids_XYZ: uint8 label ids, RAS axis order, same grid as the study's first volume.
        affine_RAS: The study's affine.
        names: Id to label name, as told to the model.
    """

    ids_XYZ: NDArray[np.uint8]
    affine_RAS: FloatArray
    names: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertResult:
    """What comes back from one call.

    Attributes:
        text: Goes to the language model; holds ``<image>`` once exactly where `overlay` belongs.
        overlay: RGB picture of the slice with the finding drawn in, or None.
        mask: The segmentation, or None.
        mask_reference: Key of the segmentation in the study store, where an expert elsewhere has left it there.
        mask_names: Label id to name in that segmentation; `labels` has the names wherever the segmentation is.
        colors: Colour name to label name, in the order drawn.
        scores: Classification probabilities by label, 0 to 1.
        measurements: Volumes in ml and the like.
        provenance: Where it comes from.
        is_remembered: It was found earlier and is given again; see `vilam3.services.memory`.
    """

    text: str
    provenance: Provenance
    overlay: Image.Image | None = None
    mask: LabelMap | None = None
    mask_reference: str = ""
    mask_names: Mapping[int, str] = field(default_factory=dict)
    colors: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    is_remembered: bool = False

    @property
    def labels(self) -> Mapping[int, str]:
        """Label id to name of what is segmented; empty without a segmentation."""
        return self.mask_names if self.mask is None else self.mask.names


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertCall:
    """A parsed trigger: ``<VISTA3D(hepatic tumor)>`` is ``ExpertCall(expert="VISTA3D", argument="hepatic tumor")``."""

    expert: str
    argument: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A place in the patient that is, or is not, part of what is sought.

    Attributes:
        xyz_mm: In the study's world, RAS axes, as its affine maps voxels to.
        label: Name of the structure, as the expert's label map names it.
        positive: False says that the structure is not here.
    """

    xyz_mm: tuple[float, float, float]
    label: str
    positive: bool = True


class Watch(Protocol):
    """Told how far an expert is; the expert calls it at least once a second, between two steps of its work."""

    def __call__(self, fraction: float, /) -> None:
        """Take note that this much is done, 0 to 1.

        Raises:
            Cancelled: the caller has gone; the expert lets it pass and leaves nothing behind.
        """
        ...


def unwatched(fraction: float, /) -> None:
    """Nobody watches, and nobody leaves."""


def refuse_points(points: Sequence[Point], *, name: str) -> None:
    """Say that an expert has no use for points.

    Raises:
        ExpertError: some are given.
    """
    if points:
        raise ExpertError(f"{name} takes no points, but {len(points)} are given; ask it without them.")


class Expert(Protocol):
    """One expert model.

    Attributes:
        name: As written in triggers, such as ``VISTA3D``.
        modality: The modality it reads.
        card: Its model card, byte-exact as the language model was trained on it.
        arguments: Valid arguments; empty where it takes none.
    """

    name: str
    modality: Modality
    card: str
    arguments: tuple[str, ...]

    def run(
        self,
        study: Study,
        argument: str = "",
        *,
        slice_index: int | None = None,
        points: Sequence[Point] = (),
        watch: Watch = unwatched,
    ) -> ExpertResult:
        """Look at the study.

        Args:
            study: What is asked about.
            argument: One of `arguments`; empty is the expert's default.
            slice_index: Axial slice of a volume; None is the middle one.
            points: Places that say what is sought; an expert that takes none refuses them.
            watch: Told how far the work is, and ends it when the caller has gone.

        Raises:
            ExpertError: wrong modality, unknown argument, or a study the expert cannot read.
            Cancelled: by `watch`.
        """
        ...

    def warm_up(self) -> None:
        """Load what is loaded once and run on something small, so that the first caller waits for neither.

        Raises:
            CheckpointError: the weights cannot be used.
        """
        ...

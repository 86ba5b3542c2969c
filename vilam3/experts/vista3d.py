"""VISTA3D: segments organs and tumours in CT with a MONAI bundle that takes label prompts."""

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vilam3.data.sample import Dialect, Modality
from vilam3.data.study import Study
from vilam3.errors import ExpertError
from vilam3.experts.bundle import Bundle, Click
from vilam3.experts.facts import ARGUMENTS, GROUPS, LABELS, card
from vilam3.experts.findings import Origin, vista3d_result
from vilam3.experts.pointing import clicks_by_id, keep_pointed
from vilam3.experts.protocol import ExpertResult, Point, Watch, unwatched
from vilam3.experts.trigger import DEFAULT_ARGUMENT
from vilam3.experts.warmth import volumes_study

NAME = "VISTA3D"
FOLDER = "vista3d"
UNSUPPORTED = frozenset({16, 18, 129, 130, 131})  # named by the published bundle, but refused as prompts


class Vista3d:
    """The expert; see `vilam3.experts.protocol.Expert`."""

    name: str = NAME
    modality: Modality = "CT"
    card: str = card(NAME)
    arguments: tuple[str, ...] = ARGUMENTS[NAME]

    def __init__(self, bundle: Bundle) -> None:
        """Wrap an opened bundle."""
        self.bundle = bundle
        self.labels = _labels_of(bundle.metadata)

    def run(
        self,
        study: Study,
        argument: str = "",
        *,
        slice_index: int | None = None,
        points: Sequence[Point] = (),
        watch: Watch = unwatched,
    ) -> ExpertResult:
        """Segment a group of labels and show one slice.

        Args:
            study: CT.
            argument: A label group; empty means everything.
            slice_index: Axial slice; None is the middle one.
            points: Where structures of the group are, or are not; only those pointed at are segmented.
            watch: Told how far it is.

        Raises:
            ExpertError: no CT, an unknown group or one the bundle knows nothing of, or points that mean nothing here.
            Cancelled: by `watch`.
            DataError: the slice is out of range.
        """
        started = time.perf_counter()
        group = argument or DEFAULT_ARGUMENT
        prompt = self._prompt(group)
        if study.modality != "CT" or len(study.volumes) != 1:
            raise ExpertError(
                f"{NAME} reads one CT volume, but this study is {study.modality} with {len(study.volumes)} volumes; "
                f"name its modality if that is wrong, or ask another expert."
            )
        clicks = clicks_by_id(points, study.volumes[0], names=LABELS, name=NAME)
        if clicks:
            prompt = self._pointed(group, prompt, clicks)
        ids_XYZ = self._segment(study, prompt, clicks, watch)
        origin = Origin(
            expert=NAME,
            version=self.bundle.version,
            weights_digest=self.bundle.weights_digest,
            argument=group,
            started=started,
        )
        return vista3d_result(study, ids_XYZ, origin=origin, slice_index=slice_index)

    def warm_up(self) -> None:
        """Load the network and run it once on a small study.

        Raises:
            CheckpointError: the weights cannot be used.
        """
        self.bundle.warm_up(volumes_study("CT").volumes, label_prompt=[min(self.labels)])

    def _segment(
        self, study: Study, prompt: list[int] | None, clicks: Mapping[int, Sequence[Click]], watch: Watch
    ) -> NDArray[np.uint8]:
        """The labels; a network with a point head is asked for one structure at a time."""
        if not clicks or not self.bundle.takes_clicks:
            ids_XYZ = self.bundle.segment(study.volumes, label_prompt=prompt, watch=watch)
            keep_pointed(ids_XYZ, clicks)
            return ids_XYZ
        found_XYZ = np.zeros(study.volumes[0].voxels_XYZ.shape, dtype=np.uint8)
        for number, (label_id, given) in enumerate(clicks.items()):

            def share(fraction: float, /, *, number: int = number) -> None:
                watch((number + fraction) / len(clicks))

            ids_XYZ = self.bundle.segment(study.volumes, label_prompt=[label_id], clicks=given, watch=share)
            found_XYZ[ids_XYZ > 0] = label_id
        return found_XYZ

    def _pointed(self, group: str, prompt: list[int] | None, clicks: Mapping[int, Sequence[Click]]) -> list[int]:
        """The label ids to look for: those pointed at, which must be of the group."""
        known = self.labels if prompt is None else prompt
        if foreign := [LABELS[label_id] for label_id in clicks if label_id not in known]:
            raise ExpertError(
                f"{NAME}: {foreign[0]!r} is pointed at, but is not part of {group!r} as this version knows it; "
                f"ask for its group, or for everything."
            )
        return list(clicks)

    def _prompt(self, group: str) -> list[int] | None:
        if group not in GROUPS:
            choices = ", ".join(repr(name) for name in GROUPS)
            raise ExpertError(f"{NAME} does not know the argument {group!r}; valid are {choices}.")
        if group == DEFAULT_ARGUMENT:
            return None
        prompt = [label_id for label_id in GROUPS[group] if label_id in self.labels]
        if not prompt:
            known = ", ".join(name for label_id, name in GROUPS["organs"].items() if label_id in self.labels)
            raise ExpertError(
                f"{NAME} {self.bundle.version} was not trained on anything of {group!r}; it knows {known}."
            )
        return prompt


def create(root: Path, *, dialect: Dialect = "demo", device: str = "cpu") -> Vista3d:
    """Open the expert below a directory of experts.

    Args:
        root: Holds ``vista3d/``.
        dialect: Without effect: both wordings are the same.
        device: Torch device name.

    Raises:
        NotFoundError: it is not there.
        CheckpointError: it is damaged.
    """
    del dialect
    return Vista3d(Bundle.open(root / FOLDER, device=device))


def _labels_of(metadata: Mapping[str, object]) -> Collection[int]:
    """Label ids that may be prompted: the output channels that the metadata names."""
    found: object = metadata
    for key in ("network_data_format", "outputs", "pred", "channel_def"):
        found = found.get(key, {}) if isinstance(found, Mapping) else {}
    named = {int(label_id) for label_id in found if str(label_id).isdigit()} if isinstance(found, Mapping) else set()
    return (named or {label_id for group in GROUPS.values() for label_id in group}) - {0} - UNSUPPORTED

"""DENOISE: restores a low-dose CT before it is looked at or segmented; an added expert, known by its entry point alone.

Its network is convolutions only, so any block of a volume gives what the whole would, and memory does not grow with the
volume. With one of VISTA3D's arguments it restores the volume and has VISTA3D segment that, where both are installed.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vilam3.data.render import slice_grey_HW
from vilam3.data.sample import Dialect, Modality
from vilam3.data.study import Study, Volume
from vilam3.errors import ExpertError, NotFoundError
from vilam3.experts.bundle import Bundle
from vilam3.experts.facts import GROUPS
from vilam3.experts.findings import Origin, middle
from vilam3.experts.protocol import ExpertResult, Measurement, Point, Watch, refuse_points, unwatched
from vilam3.experts.vista3d import NAME as VISTA3D
from vilam3.experts.vista3d import Vista3d
from vilam3.experts.vista3d import create as create_vista3d
from vilam3.experts.warmth import volumes_study

NAME = "DENOISE"
FOLDER = "denoise"
PICTURE = "picture"
CARD = (
    f"<{NAME}(args)> Modality: CT, Task: restoration, Overview: removes the quantum noise of a low-dose scan before it "
    f"is looked at or segmented, Accuracy: see the metadata of its weights, Valid args are: '{PICTURE}', or what "
    "VISTA3D is to segment in the restored scan\n"
)
BLOCK = 96  # voxels along each axis
BODY_HU = -300.0
TO_SIGMA = 1.4826 / np.sqrt(6.0)  # from the median of absolute second differences of white noise
RESTORING = 0.4  # share of the time, where VISTA3D follows


class Denoise:
    """The expert; see `vilam3.experts.protocol.Expert`."""

    name: str = NAME
    modality: Modality = "CT"
    card: str = CARD
    arguments: tuple[str, ...] = (PICTURE, *GROUPS)
    needs: tuple[str, ...] = (VISTA3D,)

    def __init__(self, bundle: Bundle, vista3d: Vista3d | None) -> None:
        """Wrap an opened bundle, and what segments after it."""
        self.bundle = bundle
        self._vista3d = vista3d

    def run(
        self,
        study: Study,
        argument: str = "",
        *,
        slice_index: int | None = None,
        points: Sequence[Point] = (),
        watch: Watch = unwatched,
    ) -> ExpertResult:
        """Restore the volume; show a slice of it, or what VISTA3D finds in it.

        Args:
            study: CT.
            argument: ``picture`` (as if empty), or a label group of VISTA3D.
            slice_index: Axial slice; None is the middle one.
            points: For VISTA3D.
            watch: Told how far it is.

        Raises:
            ExpertError: no CT, an unknown argument, or VISTA3D is not installed beside it.
            DataError: the slice is out of range.
        """
        origin = Origin(
            expert=NAME,
            version=self.bundle.version,
            weights_digest=self.bundle.weights_digest,
            argument=argument or PICTURE,
            started=time.perf_counter(),
        )
        volume = _volume_of(study)
        if origin.argument == PICTURE:
            refuse_points(points, name=f"{NAME} without a structure to segment")
            return _picture(study, volume, self._restored(volume, watch), origin=origin, slice_index=slice_index)
        if self._vista3d is None:
            raise ExpertError(f"{NAME} restores only: VISTA3D is not installed beside it; ask for '{PICTURE}'.")
        restored = self._restored(volume, lambda fraction: watch(RESTORING * fraction))
        found = self._vista3d.run(
            replace(study, volumes=(restored,)),
            argument,
            slice_index=slice_index,
            points=points,
            watch=lambda fraction: watch(RESTORING + (1 - RESTORING) * fraction),
        )
        noise = _noise(volume, restored, slice_index=middle(study, slice_index))
        return replace(
            found,
            provenance=origin.provenance(study, slice_index=found.provenance.slice_index),
            measurements=(*found.measurements, *noise),
        )

    def warm_up(self) -> None:
        """Load the network and run it once.

        Raises:
            CheckpointError: the weights cannot be used.
        """
        self.run(volumes_study("CT"))

    def _restored(self, volume: Volume, watch: Watch) -> Volume:
        voxels_XYZ = restore(self.bundle.network(), volume.voxels_XYZ, device=self.bundle.device, watch=watch)
        return replace(volume, voxels_XYZ=voxels_XYZ)


def create(root: Path, *, dialect: Dialect = "demo", device: str = "cpu") -> Denoise:
    """Open the expert below a directory of experts.

    Args:
        root: Holds ``denoise/``, and ``vista3d/`` where it is to segment what it restores.
        dialect: Without effect.
        device: Torch device name.

    Raises:
        NotFoundError: it is not there.
        CheckpointError: it is damaged.
    """
    bundle = Bundle.open(root / FOLDER, device=device)
    try:
        return Denoise(bundle, create_vista3d(root, dialect=dialect, device=device))
    except NotFoundError:
        return Denoise(bundle, None)


def restore(
    network: Any,  # noqa: ANN401 - a torch module
    voxels_XYZ: NDArray[Any],
    *,
    device: str = "cpu",
    watch: Watch = unwatched,
) -> NDArray[np.float32]:
    """The restored volume in HU, block by block, each with as much around it as its voxels depend on."""
    import torch  # noqa: PLC0415 - seconds to import

    restored_XYZ = np.empty(voxels_XYZ.shape, dtype=np.float32)
    blocks = list(_blocks(voxels_XYZ.shape))
    for number, block in enumerate(blocks):
        watch(number / len(blocks))
        around, inner = _with_margin(block, voxels_XYZ.shape, margin=network.reach)
        inputs = torch.from_numpy(np.ascontiguousarray(voxels_XYZ[around], dtype=np.float32))
        with torch.inference_mode():
            restored_XYZ[block] = network(inputs[None, None].to(device))[0, 0][inner].cpu().numpy()
    watch(1.0)
    return restored_XYZ


def noise_hu(voxels_XYZ: NDArray[Any], slice_index: int) -> float:
    """Standard deviation of the noise in the body on an axial slice, from how much neighbours along X disagree."""
    slice_XY = voxels_XYZ[:, :, slice_index]
    bends = slice_XY[:-2] - 2 * slice_XY[1:-1] + slice_XY[2:]
    inside = slice_XY[1:-1] > BODY_HU
    return float(np.median(np.abs(bends[inside])) * TO_SIGMA) if inside.any() else 0.0


def _volume_of(study: Study) -> Volume:
    if study.modality != "CT" or len(study.volumes) != 1:
        raise ExpertError(
            f"{NAME} reads one CT volume, but this study is {study.modality} with {len(study.volumes)} volumes; "
            f"name its modality if that is wrong, or ask another expert."
        )
    return study.volumes[0]


def _picture(
    study: Study, volume: Volume, restored: Volume, *, origin: Origin, slice_index: int | None
) -> ExpertResult:
    chosen = middle(study, slice_index)
    picture = Image.fromarray(slice_grey_HW(restored, modality="CT", slice_index=chosen)).convert("RGB")
    before, after = noise = _noise(volume, restored, slice_index=chosen)
    return ExpertResult(
        text=f"The results are <image>. This is the same slice, restored from a low-dose scan: its noise fell from "
        f"{before.value:.0f} to {after.value:.0f} HU. ",
        overlay=picture,
        provenance=origin.provenance(study, slice_index=chosen),
        measurements=noise,
    )


def _noise(volume: Volume, restored: Volume, *, slice_index: int) -> tuple[Measurement, Measurement]:
    before, after = (
        Measurement(label=label, quantity="noise", value=round(noise_hu(voxels, slice_index), 2), unit="HU")
        for label, voxels in (("as scanned", volume.voxels_XYZ), ("restored", restored.voxels_XYZ))
    )
    return before, after


def _blocks(shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    yield from product(*([slice(at, min(at + BLOCK, size)) for at in range(0, size, BLOCK)] for size in shape))


def _with_margin(
    block: tuple[slice, ...], shape: Sequence[int], *, margin: int
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The block with what is around it, and where the block is in that."""
    around = tuple(
        slice(max(part.start - margin, 0), min(part.stop + margin, size))
        for part, size in zip(block, shape, strict=True)
    )
    inner = tuple(
        slice(part.start - wide.start, part.stop - wide.start) for part, wide in zip(block, around, strict=True)
    )
    return around, inner

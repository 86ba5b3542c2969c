"""Runs a bundle's network over a study without ever holding the study resampled, or all scores at once.

A bundle's config says what to do in terms of whole images. Where its steps are among those understood here (the
published VISTA3D's are, and those of our small ones), the same is done window by window, with the same result; where
one is not, `Plan.of` says which, and the bundle's own way is taken.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.apps.vista3d.transforms import VistaPostTransformd, VistaPreTransformd
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer, sliding_window_inference
from monai.transforms import (
    CastToTyped,
    CropForegroundd,
    EnsureChannelFirstd,
    EnsureTyped,
    Invertd,
    Lambdad,
    LoadImaged,
    Orientationd,
    SaveImaged,
    ScaleIntensityRanged,
    Spacingd,
)
from monai.transforms.utils import is_positive
from numpy.typing import NDArray

from vilam3.data.study import Volume
from vilam3.experts.grid import Box, NetworkGrid
from vilam3.experts.postprocess import LabelIds
from vilam3.experts.protocol import Watch
from vilam3.experts.sweep import Sweep, Windows

Ids = NDArray[np.uint8]
WITHOUT_EFFECT = (LoadImaged, EnsureChannelFirstd, EnsureTyped, CastToTyped)  # on a float32 volume in memory
LEAST_SCORE_BYTES = 1 << 30
SHARE_OF_STUDY = 0.25  # of its own bytes, where the network runs on the processor
SHARE_OF_GPU = 0.5  # of the memory that is free
NUM_AXES = 3
PROBE = 4  # voxels along each axis of what an inferer is shown to learn how it cuts


class NotStreamableError(Exception):
    """A config says something that is not understood here; the text says what."""


@dataclass(slots=True, kw_only=True)
class Plan:
    """What a bundle's config says.

    Attributes:
        network: In evaluation mode, on its device.
        inferer: Cuts images into windows.
        finish: Turns scores into label ids: `LabelIds` or MONAI's `VistaPostTransformd`.
        device: Where the network runs.
        amp: Whether it runs in mixed precision.
        everything: Label ids that are asked for where none are named.
        spacing: Resamples, or None.
        crop: Margin in voxels around what is positive, or None to keep all.
        intensities: Change each voxel by itself.
        prompts: Change the label ids that are asked for.
    """

    network: Any
    inferer: Any
    finish: Any
    device: torch.device
    amp: bool = False
    everything: Sequence[int] = ()
    spacing: Any = None
    crop: int | None = None
    intensities: list[Any] = field(default_factory=list)
    prompts: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, parser: Any, network: Any, *, device: str) -> "Plan":  # noqa: ANN401 - MONAI ships no types
        """Read a config that is parsed with the bundle's own modules at hand.

        Raises:
            NotStreamableError: a step is not understood.
        """
        plan = cls(
            network=network,
            inferer=parser.get_parsed_content("inferer"),
            finish=_finish(parser.get_parsed_content("postprocessing").transforms),
            device=torch.device(device),
            amp=bool(parser["evaluator"].get("amp")) and not device.startswith("cpu"),
            everything=_everything(parser),
        )
        for step in parser.get_parsed_content("preprocessing").transforms:
            plan._take(step)
        return plan

    def _take(self, step: Any) -> None:  # noqa: ANN401 - likewise
        match step:
            case Spacingd() if self._is_untouched() and step.mode == ("bilinear",):
                self.spacing = step.spacing_transform
            case CropForegroundd() if not self.intensities and self.crop is None and _crops_plainly(step.cropper):
                self.crop = int(np.max(step.cropper.margin))
            case ScaleIntensityRanged():
                self.intensities.append(step.scaler)
            case VistaPreTransformd():
                self.prompts.append(step)
            case Orientationd() if step.ornt_transform.axcodes == "RAS":
                pass  # as every volume is held
            case _ if not isinstance(step, WITHOUT_EFFECT):
                raise NotStreamableError(f"preprocessing step {type(step).__name__}")

    def _is_untouched(self) -> bool:
        return self.spacing is None and self.crop is None and not self.intensities

    def segment(self, volume: Volume, *, label_prompt: Sequence[int] | None, watch: Watch) -> Ids:
        """Label ids on the volume's grid.

        Raises:
            NotStreamableError: the grid or the inferer of this study is not understood.
            Cancelled: by `watch`.
        """
        grid = NetworkGrid.over(volume, spacing=self.spacing)
        if grid is None:
            raise NotStreamableError("axes that are not parallel after resampling")
        voxels_XYZ = volume.voxels_XYZ
        if self.crop is not None:
            grid = grid.around(voxels_XYZ, lambda values: values > 0, margin=self.crop)
        if not all(grid.shape):
            return np.zeros(voxels_XYZ.shape, dtype=np.uint8)
        prompt = self._prompt(label_prompt)
        labels, num_classes = self._labels(prompt)
        call = self._call(prompt)
        sweep = Sweep(
            shape_XYZ=grid.shape,
            windows=call.windows,
            read=lambda box: self._input(grid, voxels_XYZ, box),
            network=call.scores,
            labels=labels,
            num_classes=num_classes,
            max_bytes=self._max_bytes(voxels_XYZ),
            device=self.device,
        )
        with torch.inference_mode(), self._precision():
            ids_XYZ = sweep.run(watch=watch)
        if isinstance(self.finish, LabelIds):
            ids_XYZ = self.finish.ids(ids_XYZ, prompt=None if label_prompt is None else frozenset(label_prompt))
        return grid.back(ids_XYZ)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type) if self.amp else nullcontext()

    def _max_bytes(self, voxels_XYZ: NDArray[Any]) -> int:
        if self.device.type == "cuda":
            return int(SHARE_OF_GPU * torch.cuda.mem_get_info(self.device)[0])
        return max(LEAST_SCORE_BYTES, int(SHARE_OF_STUDY * voxels_XYZ.size * voxels_XYZ.itemsize))

    def _input(self, grid: NetworkGrid, voxels_XYZ: NDArray[Any], box: Box) -> torch.Tensor:
        values: Any = torch.from_numpy(grid.read(voxels_XYZ, box))[None]
        for change in self.intensities:
            values = change(values)
        values = values.as_tensor() if isinstance(values, MetaTensor) else values
        return torch.as_tensor(values).to(self.device, dtype=torch.float32)

    def _prompt(self, label_prompt: Sequence[int] | None) -> list[int] | None:
        """The label ids that the network is asked for, as the bundle's own steps change them."""
        if isinstance(self.finish, LabelIds):
            return None
        if label_prompt is None:
            return [int(label_id) for label_id in self.everything]
        data: dict[str, Any] = {"label_prompt": list(label_prompt)}
        for step in self.prompts:
            data = step(data)
        return [int(label_id) for label_id in data["label_prompt"]]

    def _labels(self, prompt: list[int] | None) -> tuple[Callable[[torch.Tensor], torch.Tensor], int]:
        if prompt is None:
            return _winners, self.finish.num_channels
        ids = torch.tensor(prompt, dtype=torch.uint8, device=self.device)
        return lambda scores: _positive(scores, ids), len(prompt)

    def _call(self, prompt: list[int] | None) -> "_Call":
        if isinstance(self.inferer, SlidingWindowInferer):
            return _Call(network=self.network, given=vars(self.inferer))
        if prompt is None:
            raise NotStreamableError(f"inferer {type(self.inferer).__name__}")
        classes = torch.tensor(prompt, device=self.device)[:, None]
        probe = torch.zeros((1, 1, PROBE, PROBE, PROBE), device=self.device)
        given = _overheard(
            self.inferer,
            inputs=probe,
            network=self.network,
            point_coords=None,
            point_labels=None,
            class_vector=classes,
        )
        return _Call(network=self.network, given=given, options=given.pop("kwargs", {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """How an inferer cuts images and calls the network.

    Attributes:
        network: What it calls.
        given: Arguments of MONAI's `sliding_window_inference`.
        options: Further arguments of the network.
    """

    network: Any
    given: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def windows(self) -> Windows:
        """How it cuts."""
        given = self.given
        overlap, mode, padding = (
            _plain(given.get(name, default))
            for name, default in (("overlap", 0.25), ("mode", "constant"), ("padding_mode", "constant"))
        )
        sizes = [int(size or 0) for size in given["roi_size"]]
        if not isinstance(overlap, float | int) or padding != "constant" or len(sizes) != NUM_AXES or min(sizes) < 1:
            raise NotStreamableError(f"inferer with windows {sizes}, overlap {overlap} and padding {padding}")
        x, y, z = sizes
        return Windows(
            size_XYZ=(x, y, z),
            overlap=float(overlap),
            mode=str(mode),
            fill=float(given.get("cval", 0.0)),
            batch=int(given.get("sw_batch_size", 1)),
        )

    def scores(self, inputs_NCXYZ: torch.Tensor, corners: Sequence[tuple[int, int, int]]) -> torch.Tensor:
        """Scores of a batch of windows that begin at these corners."""
        more: list[Any] = []
        if self.given.get("with_coord"):
            sizes = inputs_NCXYZ.shape[2:]
            more = [
                [
                    [slice(0, 1), slice(None), *(slice(a, a + b) for a, b in zip(corner, sizes, strict=True))]
                    for corner in corners
                ]
            ]
        scores: torch.Tensor = self.network(inputs_NCXYZ, *more, **self.options)
        return scores


def _plain(value: Any) -> Any:  # noqa: ANN401 - MONAI takes texts or its own enumerations
    return getattr(value, "value", value)


def _overheard(inferer: Any, **given: Any) -> dict[str, Any]:  # noqa: ANN401 - of the bundle
    """What a bundle's inferer passes to MONAI's `sliding_window_inference`.

    Raises:
        NotStreamableError: it does not call it.
    """
    names: dict[str, Any] = type(inferer).__call__.__globals__
    heard: dict[str, Any] = {}

    def listen(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - as MONAI's
        heard.update(inspect.signature(sliding_window_inference).bind(*args, **options).arguments)
        return heard["inputs"]

    if names.get("sliding_window_inference") is not sliding_window_inference:
        raise NotStreamableError(f"inferer {type(inferer).__name__}")
    names["sliding_window_inference"] = listen
    try:
        inferer(**given)
    finally:
        names["sliding_window_inference"] = sliding_window_inference
    if not heard:
        raise NotStreamableError(f"inferer {type(inferer).__name__}, which cuts in a way of its own")
    return heard


def _winners(scores_CYZ: torch.Tensor) -> torch.Tensor:
    """The channel with the greatest score."""
    return scores_CYZ.argmax(0).to(torch.uint8)


def _positive(scores_CYZ: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The label id with the greatest score where one is positive, as `VistaPostTransformd`."""
    greatest, winners = scores_CYZ.max(0)
    return torch.where(greatest > 0, ids[winners], 0).to(torch.uint8)


def _finish(steps: Sequence[Any]) -> Any:  # noqa: ANN401 - MONAI ships no types
    """What turns scores into label ids; the rest must be no more than the way back to the study's grid."""
    finish, *rest = steps
    if not isinstance(finish, LabelIds | VistaPostTransformd):
        raise NotStreamableError(f"postprocessing step {type(finish).__name__}")
    for step in rest:
        changes = isinstance(step, Lambdad) and not _keeps_ids(step)
        if changes or not isinstance(step, Invertd | Lambdad | SaveImaged):
            raise NotStreamableError(f"postprocessing step {type(step).__name__}")
    return finish


def _keeps_ids(step: Any) -> bool:  # noqa: ANN401 - likewise
    ids = torch.arange(256, dtype=torch.float32)
    return bool(torch.equal(torch.as_tensor(step({"pred": ids.clone()})["pred"]), ids))


def _crops_plainly(cropper: Any) -> bool:  # noqa: ANN401 - likewise
    plain = cropper.select_fn is is_positive and cropper.channel_indices is None
    return bool(plain and cropper.allow_smaller and np.all(np.asarray(cropper.k_divisible) == 1))


def _everything(parser: Any) -> Sequence[int]:  # noqa: ANN401 - likewise
    return list(parser.get_parsed_content("everything_labels")) if "everything_labels" in parser else ()

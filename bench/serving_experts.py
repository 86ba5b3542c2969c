"""VISTA3D as a service against the official pattern, and its memory on a volume that the published bundle is killed on.

The official pattern is that of the published demo: for each call the bundle is made anew from its files, weights
included, and reads and writes files. Ours is loaded and warmed up before the first call. Each runs in a process of its
own, on the same bundle and volume, and the masks must be identical. Weights are random: what is measured is the way.
"""

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.record import Figure
from vilam3.data.nifti import write_volume
from vilam3.data.study import Volume
from vilam3.errors import VilaM3Error
from vilam3.experts.bundle import Bundle
from vilam3.experts.bundle_files import inference_config, metadata, write_bundle
from vilam3.experts.warmth import volumes_study

CHANNEL_IDS = (0, 1, 3, 4, 5, 14, 24, 26)
PROMPT = [1, 26]
CALLS = 4
SHAPE = (144, 144, 96)
ROI = (96, 96, 96)
LARGE_SHAPE = (1024, 1024, 768)
LARGE_ROI = (128, 128, 128)
SPACING_MM = 1.5
SEED = 7
NETWORK: Mapping[str, Any] = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": len(CHANNEL_IDS),
    "channels": [16, 64, 256, 512],
    "strides": [2, 2, 2],
    "num_res_units": 1,
    "norm": "batch",
}
LARGE_NETWORK: Mapping[str, Any] = {"_target_": "bench.serving_experts.Coarse", "classes": len(CHANNEL_IDS)}


class Coarse(nn.Module):
    """A network that is all but free of charge, so that the large volume is about memory."""

    def __init__(self, *, classes: int) -> None:
        """See a quarter of the resolution."""
        super().__init__()
        self.down = nn.Conv3d(1, 8, 4, stride=4)
        self.up = nn.ConvTranspose3d(8, classes, 4, stride=4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scores of each class."""
        scores: torch.Tensor = self.up(torch.relu(self.down(inputs)))
        return scores


def figures() -> list[Figure]:
    """Seconds of a first and of a later call against the official pattern, and memory on the large volume.

    Raises:
        VilaM3Error: the two ways give different masks, or one fails.
    """
    with tempfile.TemporaryDirectory(prefix="vilam3-bench-") as scratch:
        root = Path(scratch)
        _write_bundle(root / "vista3d", NETWORK, ROI)
        write_volume(root / "ct.nii.gz", _volume(SHAPE))
        ours, theirs = (_child(way, root) for way in ("served", "official"))
        if ours["masks"] != theirs["masks"] or len(set(ours["masks"])) != 1:
            raise VilaM3Error("bench experts: the masks of the two ways differ; nothing is measured")
        _write_bundle(root / "large", LARGE_NETWORK, LARGE_ROI)
        large = _child("large", root)
    first, later = ours["seconds"][0], median(ours["seconds"][1:])
    their_first, their_later = theirs["seconds"][0], median(theirs["seconds"][1:])
    return [
        Figure(name="vista3d_first_call", value=first, unit="s", baseline=their_first),
        Figure(name="vista3d_next_call", value=later, unit="s", baseline=their_later),
        Figure(name="vista3d_peak_over_volume", value=large["peak_gb"] / large["volume_gb"], unit="x", baseline=1.0),
        Figure(name="vista3d large volume, float32", value=large["volume_gb"], unit="GB"),
        Figure(name="vista3d large volume, peak of the process", value=large["peak_gb"], unit="GB"),
        Figure(name="vista3d large volume, time", value=large["seconds"], unit="s"),
    ]


def _served(root: Path) -> dict[str, Any]:
    """Loaded once and warmed up, as the service is before it is ready."""
    bundle, volume = Bundle.open(root / "vista3d"), _volume(SHAPE)
    bundle.warm_up(volumes_study("CT").volumes, label_prompt=PROMPT)
    return _timed(lambda: bundle.segment([volume], label_prompt=PROMPT))


def _official(root: Path) -> dict[str, Any]:
    """Made anew for each call, as in the published demo."""
    import nibabel as nib  # noqa: PLC0415 - of this way alone
    from monai.bundle import ConfigWorkflow  # noqa: PLC0415 - likewise

    bundle = root / "vista3d"

    def call() -> np.ndarray[Any, Any]:
        with tempfile.TemporaryDirectory(dir=root) as out:
            workflow = ConfigWorkflow(
                workflow_type="inference",
                config_file=str(bundle / "configs" / "inference.json"),
                meta_file=str(bundle / "configs" / "metadata.json"),
                logging_file=False,
                bundle_root=str(bundle),
                input_dict={"image": str(root / "ct.nii.gz"), "label_prompt": PROMPT},
                output_dir=out,
                separate_folder=False,
            )
            workflow.initialize()
            workflow.run()
            workflow.finalize()
            (path,) = Path(out).rglob("*.nii.gz")
            mask: Any = nib.load(path)
            return np.asanyarray(mask.dataobj).astype(np.uint8)

    return _timed(call)


def _large(root: Path) -> dict[str, Any]:
    """One call on the large volume; the peak is of the whole process, the volume and Python included."""
    bundle, volume = Bundle.open(root / "large"), _volume(LARGE_SHAPE)
    began = time.perf_counter()
    bundle.segment([volume], label_prompt=PROMPT, watch=_progress("large volume"))
    seconds = time.perf_counter() - began
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_gb": peak_kb * 1024 / 1e9, "volume_gb": volume.voxels_XYZ.nbytes / 1e9, "seconds": seconds}


WAYS: Mapping[str, Callable[[Path], dict[str, Any]]] = {"served": _served, "official": _official, "large": _large}


def _timed(call: Callable[[], np.ndarray[Any, Any]]) -> dict[str, Any]:
    seconds, masks = [], []
    for _ in range(CALLS):
        began = time.perf_counter()
        mask = call()
        seconds.append(time.perf_counter() - began)
        masks.append(hashlib.sha256(np.ascontiguousarray(mask).tobytes()).hexdigest())
    return {"seconds": seconds, "masks": masks}


def _volume(shape: tuple[int, int, int]) -> Volume:
    """Noise, written plane by plane so that no copy of it is ever held."""
    rng = np.random.default_rng(SEED)
    voxels_XYZ = np.empty(shape, dtype=np.float32)
    for plane in voxels_XYZ:
        plane[:] = rng.integers(-200, 300, shape[1:], dtype=np.int16)
    return Volume(voxels_XYZ=voxels_XYZ, affine_RAS=np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0]))


def _write_bundle(root: Path, network_def: Mapping[str, Any], roi: tuple[int, int, int]) -> None:
    from monai.bundle import ConfigParser  # noqa: PLC0415 - seconds to import

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = ConfigParser({"network": dict(network_def)}).get_parsed_content("network")
    config = inference_config(
        network_def=network_def,
        preprocessing=[
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [SPACING_MM] * 3, "mode": "bilinear"},
            {
                "_target_": "ScaleIntensityRanged",
                "keys": "image",
                "a_min": -200.0,
                "a_max": 300.0,
                "b_min": -2.0,
                "b_max": 2.0,
                "clip": True,
            },
        ],
        postprocessing=[
            {
                "_target_": "vilam3.experts.postprocess.LabelIds",
                "key": "pred",
                "channel_ids": list(CHANNEL_IDS),
                "hosts": {},
                "smallest_voxels": {},
            }
        ],
        roi_size=roi,
        takes={"input_dict": "${'image': 'image.nii.gz', 'label_prompt': [1]}"},
    )
    description = metadata(
        name="random", modality="CT", inputs=["image"], outputs={}, provenance={}, metrics={}, roi_size=roi
    )
    write_bundle(root, config=config, description=description, state=network.state_dict())


def _child(way: str, root: Path) -> dict[str, Any]:
    """Run one way in a process of its own."""
    command = [sys.executable, "-m", "bench.serving_experts", way, str(root)]
    ran = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ourselves
    if ran.returncode:
        raise VilaM3Error(f"bench experts: the way {way!r} ended with {ran.returncode}; see above")
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


def _progress(title: str) -> Callable[[float], None]:
    """Tell how far it is: in place on a terminal, one line every tenth in a log."""
    told = 0

    def watch(share: float, /) -> None:
        nonlocal told
        if sys.stderr.isatty():
            print(f"\r{title} {share:.1%}", end="\n" if share >= 1 else "", file=sys.stderr, flush=True)
        elif int(share * 10) > told:
            told = int(share * 10)
            print(f"{title} {told * 10} %", file=sys.stderr, flush=True)

    return watch


if __name__ == "__main__":
    print(json.dumps(WAYS[sys.argv[1]](Path(sys.argv[2]))))

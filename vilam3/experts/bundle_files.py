"""The files of a small MONAI bundle of our own, in the published layout."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vilam3 import __version__
from vilam3.artifacts import whole_directory

INTENDED_USE = "Synthetic phantoms only: demonstration and tests. Not for diagnosis, not for images of patients."
LICENSE = """\
Weights fitted to synthetic phantoms by vilam3 (Apache-2.0).

Licensed under the Apache License, Version 2.0 (the "License"); you may not use these files except in compliance with
the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. Unless required by
applicable law or agreed to in writing, they are distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF
ANY KIND, either express or implied.
"""
LOGGING = """\
[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=plain

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stderr,)

[formatter_plain]
format=%(asctime)s %(levelname)s %(name)s: %(message)s
"""

LOAD: Mapping[str, Any] = {"_target_": "LoadImaged", "keys": "image", "image_only": True, "reader": "NibabelReader"}
INVERT: Mapping[str, Any] = {
    "_target_": "Invertd",
    "keys": "pred",
    "transform": "@preprocessing",
    "orig_keys": "image",
    "nearest_interp": True,
    "to_tensor": True,
}
SAVE: Mapping[str, Any] = {
    "_target_": "SaveImaged",
    "keys": "pred",
    "output_dir": "@output_dir",
    "output_ext": "@output_ext",
    "output_dtype": "@output_dtype",
    "output_postfix": "seg",
    "separate_folder": "@separate_folder",
    "resample": False,
    "print_log": False,
}
EVALUATOR: Mapping[str, Any] = {
    "_target_": "SupervisedEvaluator",
    "device": "@device",
    "val_data_loader": "@dataloader",
    "network": "@network",
    "inferer": "@inferer",
    "postprocessing": "@postprocessing",
    "val_handlers": "@handlers",
    "amp": False,
}
CHECKPOINT_LOADER: Mapping[str, Any] = {
    "_target_": "CheckpointLoader",
    "load_path": "$@bundle_root + '/models/model.pt'",
    "load_dict": {"model": "@network"},
    "map_location": "@device",
}


def inference_config(
    *,
    network_def: Mapping[str, Any],
    preprocessing: Sequence[Mapping[str, Any]],
    postprocessing: Sequence[Mapping[str, Any]],
    roi_size: Sequence[int],
    takes: Mapping[str, Any],
) -> dict[str, Any]:
    """``configs/inference.json`` with the identifiers that MONAI's inference workflow and `Bundle` expect.

    Args:
        network_def: The network's ``_target_`` and settings.
        preprocessing: Transforms after loading.
        postprocessing: Transforms from the network's output to label ids.
        roi_size: Sliding window.
        takes: How it is told what to read: ``input_dict`` or ``test_datalist``, with an example.
    """
    data = "$[@input_dict]" if "input_dict" in takes else "@test_datalist"
    return {
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "output_ext": ".nii.gz",
        "output_dtype": "uint8",
        "separate_folder": True,
        **takes,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": dict(network_def),
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": [dict(LOAD), *preprocessing]},
        "dataset": {"_target_": "Dataset", "data": data, "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(roi_size),
            "sw_batch_size": 1,
            "overlap": 0.25,
            "mode": "gaussian",
        },
        "postprocessing": {"_target_": "Compose", "transforms": [*postprocessing, dict(INVERT), dict(SAVE)]},
        "handlers": [],
        "evaluator": dict(EVALUATOR),
        "checkpointloader": dict(CHECKPOINT_LOADER),
        "initialize": ["$@checkpointloader(@evaluator)"],
        "run": ["$@evaluator.run()"],
    }


def metadata(
    *,
    name: str,
    modality: str,
    inputs: Sequence[str],
    outputs: Mapping[str, str],
    provenance: Mapping[str, Any],
    metrics: Mapping[str, float],
    roi_size: Sequence[int],
) -> dict[str, Any]:
    """``configs/metadata.json`` with the fields that MONAI's schema asks for.

    Args:
        name: Shown to people.
        modality: As MONAI writes it: CT or MR.
        inputs: Name of each input channel.
        outputs: Label id or channel (text) to name.
        provenance: What it was fitted to and how.
        metrics: On the validation cases.
        roi_size: Size of a patch.
    """
    return {
        "version": f"{__version__}+phantom",
        "changelog": {f"{__version__}+phantom": "fitted to phantoms"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__,
        "numpy_version": version("numpy"),
        "required_packages_version": {"nibabel": version("nibabel"), "pytorch-ignite": version("pytorch-ignite")},
        "name": name,
        "task": "segmentation of phantoms",
        "description": "A small network fitted to synthetic phantoms, in the layout of the published bundle.",
        "authors": "vilam3",
        "copyright": "The vilam3 authors",
        "intended_use": INTENDED_USE,
        "eval_metrics": dict(metrics),
        "fitted": dict(provenance),
        "network_data_format": _data_format(modality, inputs, outputs, list(roi_size)),
    }


def _data_format(
    modality: str, inputs: Sequence[str], outputs: Mapping[str, str], patch_size: list[int]
) -> dict[str, Any]:
    image = {
        "type": "image",
        "format": "hounsfield" if modality == "CT" else "magnitude",
        "modality": modality,
        "num_channels": len(inputs),
        "spatial_shape": patch_size,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(index): channel for index, channel in enumerate(inputs)},
    }
    pred = {
        "type": "image",
        "format": "segmentation",
        "num_channels": len(outputs),
        "spatial_shape": patch_size,
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": True,
        "channel_def": dict(outputs),
    }
    return {"inputs": {"image": image}, "outputs": {"pred": pred}}


def write_bundle(
    root: Path, *, config: Mapping[str, Any], description: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> None:
    """Write a whole bundle directory.

    Raises:
        ArtifactError: it cannot be written.
    """
    with whole_directory(root) as partial:
        for folder in ("configs", "models", "docs"):
            (partial / folder).mkdir()
        (partial / "configs" / "inference.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (partial / "configs" / "metadata.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        (partial / "configs" / "logging.conf").write_text(LOGGING, encoding="utf-8")
        (partial / "LICENSE").write_text(LICENSE, encoding="utf-8")
        (partial / "docs" / "README.md").write_text(_readme(description), encoding="utf-8")
        torch.save({"model": dict(state)}, partial / "models" / "model.pt")


def _readme(description: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in description["eval_metrics"].items())
    labels = ", ".join(description["network_data_format"]["outputs"]["pred"]["channel_def"].values())
    return (
        f"# {description['name']}\n\n{description['description']}\n\n"
        f"**Intended use.** {description['intended_use']}\n\n"
        f"**Labels.** {labels}\n\n**On the validation phantoms**\n\n| measure | value |\n|---|---|\n{rows}\n"
    )

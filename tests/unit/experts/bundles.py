"""Bundles in the published layout with networks of a few numbers, for tests of the loader."""

import json
from pathlib import Path
from typing import Any

import torch

# One module name in both bundles, as in the published ones; what it does differs.
PROMPTED_SCRIPTS = '''
import torch


class Levels(torch.nn.Module):
    """Scores of three classes by intensity: below 10, around 20, around 40."""

    def __init__(self):
        super().__init__()
        self.centres = torch.nn.Parameter(torch.tensor([0.0, 0.0, 0.0]))

    def forward(self, x):
        return torch.cat([-(x - centre).abs() for centre in self.centres], dim=1)


class Answer:
    def __call__(self, data):
        classes = data["pred"].argmax(0, keepdim=True).float()
        prompt = [int(label) for label in data.get("label_prompt", [1, 26])]
        ids = torch.where(classes == 1, 1.0, torch.where(classes == 2, 26.0, 0.0))
        for label in (1, 26):
            if label not in prompt:
                ids[ids == label] = 0
        ids[classes == 0] = float("nan")
        return {**data, "pred": torch.nan_to_num(ids, nan=255)}
'''
CHANNEL_SCRIPTS = '''
import torch


class Levels(torch.nn.Module):
    """Sum of the four channels."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x.sum(dim=1, keepdim=True) * self.scale


class Answer:
    def __call__(self, data):
        return {**data, "pred": (data["pred"] > 2.5).float() * 4}
'''


def write_prompted(root: Path) -> Path:
    """A bundle told what to read by `input_dict`, as VISTA3D's."""
    takes = {"input_dict": "${'image': '/data/none.nii.gz', 'label_prompt': [3]}"}
    preprocessing: list[dict[str, Any]] = [
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "PLS", "labels": None},
    ]
    config = _config(takes, "$[@input_dict]", preprocessing)
    labels = {"0": "background", "1": "liver", "26": "hepatic tumor", "16": "prostate or uterus"}
    state = {"centres": torch.tensor([0.0, 20.0, 40.0])}
    return _write(root, config, PROMPTED_SCRIPTS, {"model": state}, labels=labels, version="0.5.4")


def write_channels(root: Path) -> Path:
    """A bundle told what to read by `test_datalist`, as BRATS's; its weights are a bare state dict."""
    takes = {"test_datalist": "$monai.data.load_decathlon_datalist('/data/none.json')"}
    config = _config(takes, "@test_datalist", [])
    config["dataloader"] |= {"num_workers": 4, "shuffle": True}
    return _write(root, config, CHANNEL_SCRIPTS, {"scale": torch.ones(1)}, labels={"0": "Tumor core"}, version="0.5.2")


def _config(takes: dict[str, Any], data: str, preprocessing: list[dict[str, Any]]) -> dict[str, Any]:
    load = {"_target_": "LoadImaged", "keys": "image", "image_only": True}
    save = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "resample": False,
        "output_dir": "@output_dir",
        "output_ext": "@output_ext",
        "output_dtype": "@output_dtype",
        "output_postfix": "seg",
        "separate_folder": "@separate_folder",
    }
    invert = {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": True,
    }
    return {
        "imports": ["$import scripts"],
        "bundle_root": "./",
        "output_dir": "$@bundle_root + '/eval'",
        "output_ext": ".nii.gz",
        "output_dtype": "$np.float32",
        "separate_folder": True,
        **takes,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": "scripts.Levels"},
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": [load, *preprocessing]},
        "dataset": {"_target_": "Dataset", "data": data, "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "scripts.Answer"}, invert, save]},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "amp": True,
        },
        "initialize": ["$monai.utils.set_determinism(seed=123)"],
        "run": ["$@evaluator.run()"],
    }


def _write(
    root: Path, config: dict[str, Any], scripts: str, stored: object, *, labels: dict[str, str], version: str
) -> Path:
    for folder in ("configs", "models", "scripts"):
        (root / folder).mkdir(parents=True)
    (root / "configs" / "inference.json").write_text(json.dumps(config))
    description = {"version": version, "network_data_format": {"outputs": {"pred": {"channel_def": labels}}}}
    (root / "configs" / "metadata.json").write_text(json.dumps(description))
    (root / "configs" / "logging.conf").write_text("[loggers]\nkeys=nonsense\n")
    (root / "scripts" / "__init__.py").write_text(scripts)
    torch.save(stored, root / "models" / "model.pt")
    return root

"""Bundles in the published layout with networks of a few numbers, for tests of the loader."""

import json
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import UNet

from vilam3.experts.bundle_files import inference_config, metadata, write_bundle

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

# As VISTA3D's published scripts in what matters here: an inferer that calls MONAI's sliding window by its name, with
# only some of what it was given, and an evaluator that asks for label ids, or for everything.
PUBLISHED_SCRIPTS = """
import torch
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer, sliding_window_inference


class Prompted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Conv3d(1, 6, 3, padding=1)
        self.classes = torch.nn.Embedding(133, 6)
        self.point_head = torch.nn.Linear(1, 1)
        self.point_head.last_supported = 132

    def forward(self, x, class_vector=None, transpose=False, **_):
        features = torch.tanh(self.encoder(x) * 4)
        scores = torch.einsum("kf,nfxyz->knxyz", self.classes(class_vector)[:, 0], features) - 0.2
        return scores.transpose(1, 0) if transpose else scores


class PromptInferer(Inferer):
    def __init__(self, roi_size, overlap, sw_batch_size=1):
        super().__init__()
        self.roi_size, self.overlap, self.sw_batch_size = roi_size, overlap, sw_batch_size

    def __call__(self, inputs, network, point_coords, point_labels, class_vector):
        return sliding_window_inference(
            inputs=inputs, roi_size=self.roi_size, sw_batch_size=self.sw_batch_size, predictor=network,
            transpose=True, class_vector=class_vector, mode="<mode>",
        )


class PromptEvaluator(SupervisedEvaluator):
    def __init__(self, everything, **options):
        super().__init__(**options)
        self.everything = everything

    def _iteration(self, engine, batch):
        asked = batch.get("label_prompt") or self.everything
        prompt = torch.as_tensor([int(label) for label in asked])[:, None]
        image = batch["image"]
        with torch.no_grad():
            scores = engine.inferer(
                inputs=image, network=engine.network, point_coords=None, point_labels=None, class_vector=prompt
            )
        engine.state.output = {"image": image, "pred": scores, "label_prompt": prompt[None]}
        engine.fire_event("MODEL_COMPLETED")
        return engine.state.output
"""


def write_published(root: Path, *, mode: str = "constant", crop: bool = True) -> Path:
    """A bundle with the steps of the published VISTA3D and a network that is asked for label ids."""
    key = {"keys": "image"}
    preprocessing: list[dict[str, Any]] = [
        {"_target_": "EnsureChannelFirstd", **key},
        {"_target_": "EnsureTyped", **key, "track_meta": True},
        {"_target_": "Spacingd", **key, "pixdim": [1.5, 1.5, 1.5], "mode": "bilinear"},
        {"_target_": "CropForegroundd", **key, "allow_smaller": True, "margin": 2, "source_key": "image"},
        {"_target_": "monai.apps.vista3d.transforms.VistaPreTransformd", **key, "subclass": {"2": [14, 5]}},
        {"_target_": "ScaleIntensityRanged", **key, "a_min": -900.0, "a_max": 1000.0, "b_min": 0, "b_max": 1},
        {"_target_": "Orientationd", **key, "axcodes": "RAS", "labels": None},
        {"_target_": "CastToTyped", **key, "dtype": "$torch.float32"},
    ]
    takes = {"input_dict": "${'image': '/data/none.nii.gz', 'label_prompt': [3]}"}
    if not crop:
        preprocessing = [step for step in preprocessing if step["_target_"] != "CropForegroundd"]
    config = _config(takes, "$[@input_dict]", preprocessing)
    config["everything_labels"] = "$list(range(1, 8))"
    config["network_def"] = {"_target_": "scripts.Prompted"}
    config["inferer"] = {"_target_": "scripts.PromptInferer", "roi_size": [6, 7, 5], "overlap": 0.3}
    config["evaluator"] |= {"_target_": "scripts.PromptEvaluator", "everything": "@everything_labels"}
    answer = {"_target_": "monai.apps.vista3d.transforms.VistaPostTransformd", "keys": "pred"}
    clean = {"_target_": "Lambdad", "func": "$lambda x: torch.nan_to_num(x, nan=255)", "keys": "pred"}
    invert, save = config["postprocessing"]["transforms"][1:]
    config["postprocessing"]["transforms"] = [answer, invert, clean, save]
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(2)
    state = {
        "encoder.weight": torch.randn((6, 1, 3, 3, 3), generator=generator),
        "encoder.bias": torch.randn(6, generator=generator),
        "classes.weight": torch.randn((133, 6), generator=generator),
        "point_head.weight": torch.ones((1, 1)),
        "point_head.bias": torch.ones(1),
    }
    scripts = PUBLISHED_SCRIPTS.replace("<mode>", mode)
    return _write(root, config, scripts, {"model": state}, labels={"0": "background", "1": "liver"}, version="0.5.4")


def write_small(root: Path, *, overlap: float = 0.25, batch: int = 1) -> Path:
    """A bundle as `vilam3 experts fit` writes them, unfitted."""
    network = {
        "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 4, "channels": [4, 8],
        "strides": [2], "norm": "batch",
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        state = UNet(**{name: value for name, value in network.items() if name != "_target_"}).state_dict()
    config = inference_config(
        network_def=network,
        preprocessing=[
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32", "track_meta": True},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [2.0, 2.0, 3.0], "mode": "bilinear"},
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -50.0, "a_max": 200.0, "b_min": -2.0,
             "b_max": 2.0, "clip": True},
        ],
        postprocessing=[
            {"_target_": "vilam3.experts.postprocess.LabelIds", "key": "pred", "channel_ids": [0, 1, 4, 26],
             "hosts": {"26": 1}, "smallest_voxels": {"26": 3}},
        ],
        roi_size=[8, 8, 4],
        takes={"input_dict": "${'image': 'image.nii.gz', 'label_prompt': [1]}"},
    )  # fmt: skip
    config["inferer"] |= {"overlap": overlap, "sw_batch_size": batch}
    description = metadata(
        name="small", modality="CT", inputs=["image"], outputs={"1": "liver", "4": "pancreas", "26": "hepatic tumor"},
        provenance={}, metrics={}, roi_size=[8, 8, 4],
    )  # fmt: skip
    write_bundle(root, config=config, description=description, state=state)
    return root


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

"""Pictures to the vision tower's input, as the published path makes it.

Source: NVlabs/VILA 355fda9 ``process_image`` with ``image_aspect_ratio: resize`` (RGB, one bicubic resize to the
square that ignores the aspect ratio) followed by the tower's processor, whose own resize then changes nothing: rescale
by 1/255, then the mean and standard deviation of the tower, 0.5 for SigLIP and those of ImageNet for InternViT.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vilam3.model.config import InternVisionConfig, VilaConfig


def pixels_NCHW(images: Sequence[Image.Image], config: VilaConfig) -> Tensor | None:  # noqa: N802 - a tensor shape
    """Stack pictures into (N, 3, S, S) float32, as the tower takes them; None for no pictures."""
    if not images:
        return None
    return torch.stack([pixels_CHW(image, config) for image in images])


def pixels_CHW(image: Image.Image, config: VilaConfig) -> Tensor:  # noqa: N802 - likewise
    """One picture as (3, S, S) float32; in [-1, 1] for SigLIP."""
    size = config.vision.image_size
    square = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    # The processor multiplies in float64 and rounds once; float32 throughout would differ in the last bit.
    unit_HWC = (np.asarray(square, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean_C, std_C = (np.array(each, dtype=np.float32) for each in (config.vision.mean, config.vision.std))
    pixels_HWC = (unit_HWC - mean_C) / std_C
    return torch.from_numpy(np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1)))


def preprocessor_json(config: VilaConfig) -> dict[str, object]:
    """vision_tower/preprocessor_config.json."""
    size = config.vision.image_size
    if isinstance(config.vision, InternVisionConfig):
        return {"image_processor_type": "InternVisionPreprocessor", "resize_size": size}
    return {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(config.vision.mean),
        "image_processor_type": "SiglipImageProcessor",
        "image_std": list(config.vision.std),
        "processor_class": "SiglipProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": size, "width": size},
    }

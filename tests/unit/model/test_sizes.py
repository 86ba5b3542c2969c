"""Counting weights and operations without building a network, held against networks that are built."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vilam3.model.config import InternVisionConfig, Preset, VilaConfig
from vilam3.model.sizes import Sizes, image_operations, llm_operations, sizes
from vilam3.model.vila import Vila


@pytest.mark.parametrize("preset", get_args(Preset))
def test_the_count_is_the_number_of_weights_of_the_network_itself(preset: str) -> None:
    config = VilaConfig.preset(preset)  # type: ignore[arg-type]  # parametrized by name
    with torch.device("meta"):
        model = Vila(config)
    built = {
        part: sum(weight.numel() for weight in getattr(model, part).parameters())
        for part in ("vision_tower", "mm_projector", "llm")
    }
    assert sizes(config) == Sizes(**built)


SMALL_INTERN = InternVisionConfig(
    hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, image_size=112
)
SMALL = {
    "tiny": VilaConfig.preset("tiny"),
    "nvila-tiny": VilaConfig.preset("nvila-tiny"),
    "blocks of three": replace(VilaConfig.preset("nvila-tiny"), projector="mlp_downsample_3x3_fix"),
    "InternViT": replace(VilaConfig.preset("tiny"), vision=SMALL_INTERN, select_layer=-1),
}


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_operations_are_what_torch_counts_of_a_real_forward_pass(config: VilaConfig) -> None:
    """Matrix products only, as we count; attention as plain products, which torch counts whole and we by its half."""
    model = Vila(config).eval()
    length = 64
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model.llm(input_ids=torch.zeros(1, length, dtype=torch.long))
    attention = config.llm.num_hidden_layers * 2 * length * config.llm.hidden_size
    assert counted.get_total_flops() / length == pytest.approx(
        llm_operations(config.llm, length=length) + attention, rel=0.01
    )
    side = config.vision.image_size
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model.encode_images(torch.zeros(1, 3, side, side))
    assert counted.get_total_flops() == pytest.approx(sum(image_operations(config)), rel=0.01)

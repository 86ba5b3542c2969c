"""The vision towers, run only as far as their output is used.

SigLIP, source NVlabs/VILA 355fda9, llava/model/multimodal_encoder: the feature is ``hidden_states[-2]`` and every patch
token is kept. The last layer, the post-LayerNorm and the attention-pool head are carried (published files hold them)
but never run. The tower of the 40B model is in `vilam3.model.intern_vit`.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from vilam3.model.config import InternVisionConfig, VilaConfig, VisionConfig
from vilam3.model.intern_vit import InternTower


class Tower(Protocol):
    """One kind of tower; a module of torch as well."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Its transformer layers."""
        ...

    def fill_buffers(self) -> None:
        """Compute the buffers that no file holds."""
        ...

    def __call__(self, pixels_NCHW: Tensor) -> Tensor:
        """(N, 3, S, S) normalised pixels -> (N, G*G, C) patch features."""
        ...


class VisionTower(nn.Module):
    """SigLIP under its published tensor names, ``vision_model.…``."""

    def __init__(self, config: VilaConfig) -> None:
        """Build it for `config`."""
        super().__init__()
        assert isinstance(config.vision, VisionConfig)
        siglip = SiglipVisionConfig(**asdict(config.vision))
        siglip._attn_implementation = "sdpa"  # noqa: SLF001 - transformers' own documented switch has this name
        self.vision_model = SiglipVisionModel(siglip)
        self.num_layers_run = config.vision.num_hidden_layers + 1 + config.select_layer

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """See `Tower`."""
        return cast("Sequence[nn.Module]", self.vision_model.encoder.layers)

    def fill_buffers(self) -> None:
        """See `Tower`."""
        embeddings = self.vision_model.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions).expand((1, -1))

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """(N, 3, S, S) normalised pixels -> (N, G*G, C) patch features."""
        features_NPC: Tensor = self.vision_model.embeddings(pixels_NCHW)
        for layer in self.vision_model.encoder.layers[: self.num_layers_run]:
            features_NPC = layer(features_NPC, None)
        return features_NPC


def tower_of(config: VilaConfig) -> VisionTower | InternTower:
    """The tower that the configuration names, with fresh weights."""
    return InternTower(config) if isinstance(config.vision, InternVisionConfig) else VisionTower(config)

"""The SigLIP tower, run only as far as its output is used.

Source: NVlabs/VILA 355fda9, llava/model/multimodal_encoder: the feature is ``hidden_states[-2]`` and every patch token
is kept. The last layer, the post-LayerNorm and the attention-pool head are carried (published files hold them) but
never run.
"""

from dataclasses import asdict

from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from vilam3.model.config import VilaConfig


class VisionTower(nn.Module):
    """SigLIP under its published tensor names, ``vision_model.…``."""

    def __init__(self, config: VilaConfig) -> None:
        """Build it for `config`."""
        super().__init__()
        siglip = SiglipVisionConfig(**asdict(config.vision))
        siglip._attn_implementation = "sdpa"  # noqa: SLF001 - transformers' own documented switch has this name
        self.vision_model = SiglipVisionModel(siglip)
        self.num_layers_run = config.vision.num_hidden_layers + 1 + config.select_layer

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """(N, 3, S, S) normalised pixels -> (N, G*G, C) patch features."""
        features_NPC: Tensor = self.vision_model.embeddings(pixels_NCHW)
        for layer in self.vision_model.encoder.layers[: self.num_layers_run]:
            features_NPC = layer(features_NPC, None)
        return features_NPC

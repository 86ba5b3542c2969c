"""InternViT-6B, the vision tower of the 40B model.

Source: NVlabs/VILA 355fda9, llava/model/multimodal_encoder/intern/modeling_intern_vit.py and intern_encoder.py. A class
token leads the patches and is dropped at the end (``mm_vision_select_feature`` is ``patch``); the feature is the output
of the last layer (``mm_vision_select_layer`` is -1), which no norm follows. Each half of a layer is scaled channel by
channel before it is added; queries and keys are normed over all heads together.

Legend: N images, G patch grid side, P patches (G*G), T tokens (P + 1), C width, A heads, D width of a head.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from vilam3.model.config import InternVisionConfig, VilaConfig


class InternTower(nn.Module):
    """InternViT under its published tensor names, ``embeddings.…`` and ``encoder.layers.…``."""

    def __init__(self, config: VilaConfig) -> None:
        """Build it for `config`."""
        super().__init__()
        assert isinstance(config.vision, InternVisionConfig)
        self.embeddings = _Embeddings(config.vision)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(_Layer(config.vision) for _ in range(config.vision.num_hidden_layers))
        self.recomputes = False  # its activations again in the backward pass, as the published training always does
        self.num_layers_run = config.vision.num_hidden_layers + 1 + config.select_layer

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Its transformer layers."""
        return cast("Sequence[nn.Module]", self.encoder.layers)

    def fill_buffers(self) -> None:
        """It has none."""

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """(N, 3, S, S) normalised pixels -> (N, G*G, C) patch features."""
        hidden_NTC: Tensor = self.embeddings(pixels_NCHW)
        for layer in self.blocks[: self.num_layers_run]:
            if self.recomputes and self.training:
                hidden_NTC = checkpoint(layer, hidden_NTC, use_reentrant=False)
            else:
                hidden_NTC = layer(hidden_NTC)
        return hidden_NTC[:, 1:]


class _Embeddings(nn.Module):
    def __init__(self, vision: InternVisionConfig) -> None:
        super().__init__()
        width, side = vision.hidden_size, vision.patch_size
        self.class_embedding = nn.Parameter(torch.empty(1, 1, width).normal_(std=vision.initializer_range))
        self.patch_embedding = nn.Conv2d(vision.num_channels, width, kernel_size=side, stride=side)
        positions = torch.empty(1, vision.grid**2 + 1, width).normal_(std=vision.initializer_range)
        self.position_embedding = nn.Parameter(positions)

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        patches_NPC = self.patch_embedding(pixels_NCHW).flatten(2).transpose(1, 2)
        first_N1C = self.class_embedding.expand(len(patches_NPC), -1, -1)
        return torch.cat([first_N1C, patches_NPC], dim=1) + self.position_embedding


class _Attention(nn.Module):
    def __init__(self, vision: InternVisionConfig) -> None:
        super().__init__()
        width, self.num_heads = vision.hidden_size, vision.num_attention_heads
        self.qkv = nn.Linear(width, 3 * width, bias=vision.qkv_bias)
        self.q_norm = nn.RMSNorm(width, eps=vision.layer_norm_eps) if vision.qk_normalization else nn.Identity()
        self.k_norm = nn.RMSNorm(width, eps=vision.layer_norm_eps) if vision.qk_normalization else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, hidden_NTC: Tensor) -> Tensor:
        query_NTC, key_NTC, value_NTC = self.qkv(hidden_NTC).chunk(3, dim=-1)
        heads = (self.q_norm(query_NTC), self.k_norm(key_NTC), value_NTC)
        query_NATD, key_NATD, value_NATD = (one.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for one in heads)
        mixed_NATD = scaled_dot_product_attention(query_NATD, key_NATD, value_NATD)
        projected: Tensor = self.proj(mixed_NATD.transpose(1, 2).flatten(2))
        return projected


class _Mlp(nn.Module):
    def __init__(self, vision: InternVisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision.hidden_size, vision.intermediate_size)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(vision.intermediate_size, vision.hidden_size)

    def forward(self, hidden_NTC: Tensor) -> Tensor:
        changed: Tensor = self.fc2(self.act(self.fc1(hidden_NTC)))
        return changed


class _Layer(nn.Module):
    def __init__(self, vision: InternVisionConfig) -> None:
        super().__init__()
        width, eps = vision.hidden_size, vision.layer_norm_eps
        self.attn = _Attention(vision)
        self.mlp = _Mlp(vision)
        self.norm1 = nn.RMSNorm(width, eps=eps)
        self.norm2 = nn.RMSNorm(width, eps=eps)
        self.ls1 = nn.Parameter(torch.full((width,), vision.initializer_factor))
        self.ls2 = nn.Parameter(torch.full((width,), vision.initializer_factor))

    def forward(self, hidden_NTC: Tensor) -> Tensor:
        hidden_NTC = hidden_NTC + self.attn(self.norm1(hidden_NTC)) * self.ls1
        return hidden_NTC + self.mlp(self.norm2(hidden_NTC)) * self.ls2

"""From vision patches to language-model positions: 2x2 merge, LayerNorm, two-layer MLP.

The mathematics of ``mlp_downsample`` in VILA 1.5 (NVlabs/VILA 355fda9). Tokens come out **column-major**: later VILA
releases transpose them under the same name, and weights of the one do not work with the other.

Legend: N images, G patch grid side, B blocks per side (G padded to even, halved), C vision width, H LLM width.
"""

import torch
from torch import Tensor, nn

from vilam3.model.config import MERGE, VilaConfig


class DownSampleBlock(nn.Module):
    """Zero-pad the grid at bottom and right to even, and merge each 2x2 block into one token."""

    def forward(self, patches_NPC: Tensor) -> Tensor:
        """(N, G*G, C) -> (N, B*B, 4C); token t holds block (row t % B, column t // B), channels r0c0 r0c1 r1c0 r1c1."""
        images, patches, width = patches_NPC.shape
        grid = round(patches**0.5)
        assert grid * grid == patches, "the patch grid is square"
        grid_NGGC = patches_NPC.reshape(images, grid, grid, width)
        if grid % MERGE:
            grid_NGGC = nn.functional.pad(grid_NGGC, (0, 0, 0, 1, 0, 1))
        blocks = grid_NGGC.shape[1] // MERGE
        blocks_NRrCcC = grid_NGGC.reshape(images, blocks, MERGE, blocks, MERGE, width)
        return blocks_NRrCcC.permute(0, 3, 1, 2, 4, 5).reshape(images, blocks * blocks, MERGE * MERGE * width)


class Projector(nn.Module):
    """The published module: tensors are named ``layers.1``, ``layers.2`` and ``layers.4``."""

    def __init__(self, config: VilaConfig) -> None:
        """Build it for `config`."""
        super().__init__()
        hidden = config.llm.hidden_size
        self.layers = nn.Sequential(
            DownSampleBlock(),
            nn.LayerNorm(config.merged_size),
            nn.Linear(config.merged_size, hidden),
            nn.GELU(),  # exact erf, unlike the tower's tanh form
            nn.Linear(hidden, hidden),
        )

    def forward(self, patches_NPC: Tensor) -> Tensor:
        """(N, G*G, C) -> (N, B*B, H)."""
        tokens: torch.Tensor = self.layers(patches_NPC)
        return tokens

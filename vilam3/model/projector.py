"""From vision patches to language-model positions: blocks of patches merged, LayerNorm, an MLP.

The mathematics of ``mlp_downsample`` in VILA 1.5 (NVlabs/VILA 355fda9) and of ``mlp_downsample``,
``mlp_downsample_2x2_fix`` and ``mlp_downsample_3x3_fix`` in NVILA (b760c34). VILA 1.5 puts the tokens in columns, NVILA
in rows, under the same name: weights of the one do not work with the other.

Legend: N images, G patch grid side, M patches along a block's side, B blocks per side (G padded to a multiple of M),
C vision width, S scales that are read beside each other, H LLM width.
"""

import torch
from torch import Tensor, nn

from vilam3.model.config import ImageOrder, VilaConfig


class DownSampleBlock(nn.Module):
    """Zero-pad the grid at bottom and right, and merge each block of patches into one token."""

    def __init__(self, *, merge: int = 2, order: ImageOrder = "column") -> None:
        """Merge blocks of `merge` by `merge`."""
        super().__init__()
        self.merge, self.order = merge, order

    def forward(self, patches_NPC: Tensor) -> Tensor:
        """(N, G*G, C) -> (N, B*B, M*M*C).

        Channels of a token are those of its patches, row by row: r0c0 r0c1 … r1c0 …. Token t holds block (row t % B,
        column t // B) in the order of columns, block (row t // B, column t % B) in the order of rows.
        """
        images, patches, width = patches_NPC.shape
        grid, merge = round(patches**0.5), self.merge
        assert grid * grid == patches, "the patch grid is square"
        grid_NGGC = patches_NPC.reshape(images, grid, grid, width)
        if missing := -grid % merge:
            grid_NGGC = nn.functional.pad(grid_NGGC, (0, 0, 0, missing, 0, missing))
        blocks = grid_NGGC.shape[1] // merge
        blocks_NRrCcC = grid_NGGC.reshape(images, blocks, merge, blocks, merge, width)
        axes = (0, 3, 1, 2, 4, 5) if self.order == "column" else (0, 1, 3, 2, 4, 5)
        return blocks_NRrCcC.permute(axes).reshape(images, blocks * blocks, merge * merge * width)


class Projector(nn.Module):
    """The published module: tensors are named ``layers.1`` and so on, by their place."""

    def __init__(self, config: VilaConfig) -> None:
        """Build it for `config`."""
        super().__init__()
        hidden, merged, between = config.llm.hidden_size, config.merged_size, config.read_size * 3
        self.scales = config.scales
        block = DownSampleBlock(merge=config.merge, order=config.image_order)
        if config.projector == "mlp_downsample_3x3_fix":
            self.layers = nn.Sequential(
                block,
                nn.LayerNorm(merged),
                nn.Linear(merged, between),
                nn.GELU(),
                nn.LayerNorm(between),
                nn.Linear(between, hidden),
                nn.GELU(),
                nn.Linear(hidden, hidden),
            )
            return
        self.layers = nn.Sequential(
            block,
            nn.LayerNorm(merged),
            nn.Linear(merged, hidden),
            nn.GELU(),  # exact erf, unlike the tower's tanh form
            nn.Linear(hidden, hidden),
        )

    def forward(self, patches_NPC: Tensor) -> Tensor:
        """(N, G*G, C) -> (N, B*B, H)."""
        every_NPX = patches_NPC.repeat(1, 1, self.scales) if self.scales > 1 else patches_NPC  # X is S*C
        tokens: torch.Tensor = self.layers(every_NPX)
        return tokens

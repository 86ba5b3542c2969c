"""The network of DENOISE: convolutions that say what of a CT is noise."""

import torch
from torch import nn

SCALE_HU = 200.0


class ResidualNet(nn.Module):
    """Subtracts from a volume in HU what it takes for noise.

    Attributes:
        reach: How many voxels away an output voxel depends on its input.
    """

    def __init__(self, *, width: int = 12, depth: int = 4) -> None:
        """Make `depth` layers of `width` channels; the last begins at zero, so that nothing is taken away."""
        super().__init__()
        layers: list[nn.Module] = [nn.Conv3d(1, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv3d(width, width, 3, padding=1), nn.ReLU()]
        last = nn.Conv3d(width, 1, 3, padding=1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)
        self.reach = depth

    def forward(self, hu_NCXYZ: torch.Tensor) -> torch.Tensor:
        """The volume without noise."""
        noise: torch.Tensor = self.layers(hu_NCXYZ / SCALE_HU)
        return hu_NCXYZ - SCALE_HU * noise

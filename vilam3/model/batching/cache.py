"""Keys and values of every position that is being worked on: one place for each running request.

Legend: A keys and values (2), Y layers, S places, L positions, T some of them, K key-value heads, D width of a head,
N tokens of a pass, B rows that are decoded.
"""

import numpy as np
import torch
from torch import Tensor

from vilam3.model.batching.schedule import Move
from vilam3.model.config import LlmConfig


class SlotCache:
    """One tensor for all places; memory of a processor is taken only where something was written."""

    def __init__(
        self, config: LlmConfig, *, slots: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        """Make it, empty.

        Args:
            config: Of the language model.
            slots: Places.
            dtype: Of the network.
            device: Of the network.
        """
        head = config.hidden_size // config.num_attention_heads
        positions = config.max_position_embeddings
        # a head's positions follow each other, since attention reads them head by head
        shape = (2, config.num_hidden_layers, slots, config.num_key_value_heads, positions, head)
        self._all_AYSKLD = _zeros(shape, dtype=dtype, device=torch.device(device))

    @property
    def nbytes_of_position(self) -> int:
        """Memory of one position."""
        return self._all_AYSKLD[:, :, 0, :, 0].nbytes

    def write(self, layer: int, at: tuple[Tensor, Tensor], keys_NKD: Tensor, values_NKD: Tensor) -> None:
        """Keep what one layer made; `at` is the place and the position of each token."""
        for each, new_NKD in enumerate((keys_NKD, values_NKD)):
            self._all_AYSKLD[each, layer].transpose(1, 2).index_put_(at, new_NKD)

    def rows(self, layer: int, slots: slice | Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, K, L, D) of some places; a slice of them is not copied."""
        keys_BKLD, values_BKLD = (self._all_AYSKLD[each, layer, :, :, :length][slots] for each in (0, 1))
        return keys_BKLD, values_BKLD

    def move(self, move: Move) -> None:
        """Copy a place's positions to another."""
        self._all_AYSKLD[:, :, move.target, :, : move.length] = self._all_AYSKLD[:, :, move.source, :, : move.length]

    def copy_out(self, slot: int, start: int, stop: int) -> Tensor:
        """A copy (A, Y, K, T, D) of some positions."""
        return self._all_AYSKLD[:, :, slot, :, start:stop].clone()

    def copy_in(self, slot: int, start: int, block_AYKTD: Tensor) -> None:
        """Put a copy back, to any place at the same position."""
        self._all_AYSKLD[:, :, slot, :, start : start + block_AYKTD.shape[3]] = block_AYKTD


def _zeros(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; what was never written must not be a NaN, since attention weighs it by nought and adds it."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy's zeros are pages that the kernel gives out when they are written, torch's are written at once
    size = dtype.itemsize
    return torch.from_numpy(np.zeros((*shape[:-1], shape[-1] * size), np.uint8)).view(dtype)

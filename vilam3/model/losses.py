"""Cross-entropy of a large vocabulary without ever holding the logits of all positions."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vilam3.model.config import IGNORED_LABEL

CHUNK_NUMEL = 1 << 24  # logits held at a time: 64 MiB of float32


def target_loss(head: nn.Module, hidden_BLH: Tensor, labels_BL: Tensor) -> tuple[Tensor, int]:
    """Summed cross-entropy over the positions that have a target, and their number.

    Only these reach the head, a chunk at a time; a chunk's logits are computed again in the backward pass.

    Args:
        head: From (T, H) to logits (T, V).
        hidden_BLH: Last hidden states.
        labels_BL: Labels of the same positions; the state at L predicts the label at L + 1.
    """
    targets_BL = labels_BL[:, 1:]
    is_target_BL = targets_BL != IGNORED_LABEL
    hidden_TH, targets_T = hidden_BLH[:, :-1][is_target_BL], targets_BL[is_target_BL]
    num_targets = targets_T.shape[0]
    width: int = head.out_features  # type: ignore[assignment]  # a linear layer, or what a strategy made of one
    chunk = max(1, CHUNK_NUMEL // width)
    if num_targets <= chunk:
        return _summed(head, hidden_TH, targets_T), num_targets
    total = hidden_TH.new_zeros((), dtype=torch.float32)
    for start in range(0, num_targets, chunk):
        part = (hidden_TH[start : start + chunk], targets_T[start : start + chunk])
        total = total + checkpoint(_summed, head, *part, use_reentrant=False)
    return total, num_targets


def _summed(head: nn.Module, hidden_TH: Tensor, targets_T: Tensor) -> Tensor:
    return nn.functional.cross_entropy(head(hidden_TH).float(), targets_T, reduction="sum")

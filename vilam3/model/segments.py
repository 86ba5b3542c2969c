"""Several conversations in one row: where each begins, and so at which position of its own every entry stands.

The language model's attention keeps conversations apart by these positions: wherever they do not go up by one, another
begins, and attention does not cross (the packed format of transformers, for every attention kernel alike).
Legend: B rows, T token ids, L positions after image expansion.
"""

import torch
from torch import Tensor

from vilam3.model.config import IMAGE_TOKEN_ID


def segment_positions(input_ids_BT: Tensor, is_real_BT: Tensor, starts_BT: Tensor, *, tokens_per_image: int) -> Tensor:
    """Rotary positions (B, L), counted from 0 in every segment.

    Args:
        input_ids_BT: Token ids with `IMAGE_TOKEN_ID` where an image goes, padded on the right.
        is_real_BT: True at real tokens.
        starts_BT: True at the first token of each segment; every row begins with one.
        tokens_per_image: Positions that an image takes.
    """
    is_image_BT = (input_ids_BT == IMAGE_TOKEN_ID) & is_real_BT
    width_BT = is_real_BT.long() + is_image_BT * (tokens_per_image - 1)
    ends_BT = width_BT.cumsum(dim=1)
    longest = int(ends_BT[:, -1].max())
    columns_L = torch.arange(longest, device=input_ids_BT.device)
    # One column more takes the marks of rows that are full; what is behind a shorter row is a segment of its own.
    begins_BL = torch.zeros(input_ids_BT.shape[0], longest + 1, dtype=torch.bool, device=input_ids_BT.device)
    begins_BL.scatter_(1, torch.where(starts_BT & is_real_BT, ends_BT - width_BT, longest), value=True)
    begins_BL.scatter_(1, ends_BT[:, -1:], value=True)
    last_begin_BL = torch.where(begins_BL[:, :longest], columns_L, 0).cummax(dim=1).values
    return columns_L - last_begin_BL

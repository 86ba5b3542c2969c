"""Several conversations in one row: where each begins, at which position of its own every entry stands, what it sees.

A conversation sees itself alone, or itself and an opening in its row that it shares with others and that is therefore
computed once. Attention is computed conversation by conversation: what they may not see costs nothing, and no mask over
the whole row is ever made.
Legend: B rows, T token ids, L positions after image expansion, A attention heads, D width of a head, N positions of a
segment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vilam3.model.config import IMAGE_TOKEN_ID

ALONE, OPENING, CONTINUES = 1, 2, 3  # how a segment begins: by itself, for others, or behind the last opening
ATTENTION = "vilam3_segments"  # among the attention functions of transformers


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Positions of a row that belong together.

    Attributes:
        length: How many.
        opening: Index of the segment that this one continues.
        is_real: False for the padding at the end of a row.
    """

    length: int
    opening: int | None = None
    is_real: bool = True


def segments_of(
    input_ids_BT: Tensor, is_real_BT: Tensor, starts_BT: Tensor, *, tokens_per_image: int, limit: int
) -> tuple[Segment, ...]:
    """What the rows consist of, one row after the other, padding included.

    Args:
        input_ids_BT: Token ids with `IMAGE_TOKEN_ID` where an image goes, padded on the right.
        is_real_BT: True at real tokens.
        starts_BT: `ALONE`, `OPENING` or `CONTINUES` at the first token of each segment, every row begins with one;
            0 elsewhere.
        tokens_per_image: Positions that an image takes.
        limit: Of positions of a row; what is beyond is cut.
    """
    is_image_BT = (input_ids_BT == IMAGE_TOKEN_ID) & is_real_BT
    width_BT = is_real_BT.long() + is_image_BT * (tokens_per_image - 1)
    ends_BT = width_BT.cumsum(dim=1)
    longest = min(limit, int(ends_BT[:, -1].max()))
    places = ((starts_BT > 0) & is_real_BT).nonzero(as_tuple=True)
    begun: list[list[tuple[int, int]]] = [[] for _ in range(input_ids_BT.shape[0])]
    columns = (places[0], (ends_BT - width_BT)[places].clamp(max=longest), starts_BT[places])
    for row, begin, kind in zip(*(column.tolist() for column in columns), strict=True):
        begun[row].append((begin, kind))
    found: list[Segment] = []
    for begins, end in zip(begun, ends_BT[:, -1].clamp(max=longest).tolist(), strict=True):
        _append(found, begins, end=end)
        if end < longest:
            found.append(Segment(length=longest - end, is_real=False))
    return tuple(found)


def _append(found: list[Segment], begins: list[tuple[int, int]], *, end: int) -> None:
    """The segments of one row."""
    opening = None
    stops = [begin for begin, _ in begins[1:]] + [end]
    for (begin, kind), stop in zip(begins, stops, strict=False):  # a row of padding alone begins none
        if stop == begin:
            continue
        if kind == OPENING:
            opening = len(found)
        found.append(Segment(length=stop - begin, opening=opening if kind == CONTINUES else None))


def positions_of(segments: Sequence[Segment], *, rows: int) -> Tensor:
    """Rotary positions (B, L): every segment counts from 0, one with an opening from its end."""
    before = [0 if one.opening is None else segments[one.opening].length for one in segments]
    counted = [torch.arange(first, first + one.length) for first, one in zip(before, segments, strict=True)]
    return torch.cat(counted).view(rows, -1)


def attend(
    module: nn.Module,
    query_BALD: Tensor,
    key_BALD: Tensor,
    value_BALD: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Sequence[Segment] | None = None,
    **settings: Any,  # noqa: ANN401 - those of transformers
) -> tuple[Tensor, None]:
    """Causal attention that does not cross segments; without any the attention of torch as it is.

    Returns:
        (B, L, A, D), and nothing for the weights of attention.
    """
    if segments is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query_BALD, key_BALD, value_BALD, attention_mask, **settings
        )
        return found
    repeats = query_BALD.shape[1] // key_BALD.shape[1]
    tensors = (query_BALD, repeat_kv(key_BALD, repeats), repeat_kv(value_BALD, repeats))
    sizes = [one.length for one in segments]
    # Divided once and joined once, so that the backward pass does not write a whole row for every segment.
    parts = [one.transpose(1, 2).flatten(0, 1).split(sizes) for one in tensors]
    seen = [_seen(segments, number, *parts) for number in range(len(segments))]
    rows, heads, _, width = query_BALD.shape
    return torch.cat(seen).view(rows, -1, heads, width), None


def _seen(
    segments: Sequence[Segment],
    number: int,
    query: Sequence[Tensor],
    key: Sequence[Tensor],
    value: Sequence[Tensor],
) -> Tensor:
    """(N, A, D) of one segment."""
    segment, mine = segments[number], query[number]
    if not segment.is_real:
        return torch.zeros_like(mine)
    if segment.opening is None:
        return _attended(mine, key[number], value[number], mask=None)
    before = segments[segment.opening].length
    is_seen = torch.ones(segment.length, before + segment.length, dtype=torch.bool, device=mine.device).tril(before)
    keys, values = (torch.cat([whole[segment.opening], whole[number]]) for whole in (key, value))
    return _attended(mine, keys, values, mask=is_seen)


def _attended(query_NAD: Tensor, key_NAD: Tensor, value_NAD: Tensor, *, mask: Tensor | None) -> Tensor:
    query, key, value = (one.transpose(0, 1)[None] for one in (query_NAD, key_NAD, value_NAD))
    found = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
    return found[0].transpose(0, 1)


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)

"""The opening words that all samples of a batch share, computed once: same loss and gradients, less work.

Expert conversations begin with the same system text and model cards, longer than everything that follows. Nothing there
is learned and attention is causal, so one row's keys and values serve all rows.
Legend: B rows, T token ids, L positions after image expansion, P positions of the prefix.
"""

from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor
from transformers.cache_utils import DynamicCache

from vilam3.model.config import IGNORED_LABEL, IMAGE_TOKEN_ID
from vilam3.model.losses import target_loss
from vilam3.model.vila import Vila

WORTHWHILE = 64  # a shorter shared prefix is not worth a second pass


def shared_length(input_ids_BT: Tensor, labels_BT: Tensor, mask_BT: Tensor) -> int:
    """Leading tokens that all rows share and whose outputs no target needs; 0 where it is not worthwhile.

    Args:
        input_ids_BT: Right padded.
        labels_BT: Aligned with the ids.
        mask_BT: True at real tokens.
    """
    differs_T = (input_ids_BT != input_ids_BT[:1]).any(dim=0) | ~mask_BT.all(dim=0)
    ends_T = differs_T | (input_ids_BT == IMAGE_TOKEN_ID).any(dim=0)
    needed_T = (labels_BT != IGNORED_LABEL).any(dim=0).roll(-1)  # position t predicts the token at t + 1
    stops = (ends_T | needed_T).nonzero()
    length = int(stops[0]) if len(stops) else 0
    return length if length >= WORTHWHILE and input_ids_BT.shape[0] > 1 else 0


def loss_after_prefix(
    model: Vila,
    input_ids_BT: Tensor,
    pixels_NCHW: Tensor | None,
    *,
    mask_BT: Tensor,
    labels_BT: Tensor,
    length: int,
    families_BT: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy over the targets, as `Vila.forward` gives it, with the first `length` tokens run once.

    All rows are of one family of tasks, where there are any.
    """
    embeds_1PH = model.llm.model.embed_tokens(input_ids_BT[:1, :length])
    cache = DynamicCache(config=model.llm.config)
    first_1P, rest_BT = (None, None) if families_BT is None else (families_BT[:1, :length], families_BT[:, length:])
    told = model.families_at(input_ids_BT[:1, :length], first_1P, attention_mask_BT=None, limit=length)
    model.llm.model(inputs_embeds=embeds_1PH, past_key_values=cache, use_cache=True, **told)
    cache.batch_repeat_interleave(input_ids_BT.shape[0])
    spliced = model.splice(
        input_ids_BT[:, length:],
        pixels_NCHW,
        attention_mask_BT=mask_BT[:, length:],
        labels_BT=labels_BT[:, length:],
    )
    assert spliced.labels_BL is not None
    limit = model.config.max_tokens - length
    told = model.families_at(input_ids_BT[:, length:], rest_BT, attention_mask_BT=mask_BT[:, length:], limit=limit)
    # Padding is on the right and attention is causal, so real positions never see it: no mask is needed.
    hidden_BLH = model.llm.model(
        inputs_embeds=spliced.embeds_BLH[:, :limit], past_key_values=cache, use_cache=True, **told
    ).last_hidden_state
    total, num_targets = target_loss(model.llm.lm_head, hidden_BLH, spliced.labels_BL[:, :limit])
    return total / max(num_targets, 1)


def by_opening(openings: Sequence[bytes], *, fewest: int = 2) -> list[list[int]]:
    """Indices grouped by equal opening, in order; openings that fewer share go together at the end."""
    found: dict[bytes, list[int]] = defaultdict(list)
    for index, opening in enumerate(openings):
        found[opening].append(index)
    groups = [group for group in found.values() if len(group) >= fewest]
    rest = sorted(index for group in found.values() if len(group) < fewest for index in group)
    return [*groups, rest] if rest else groups

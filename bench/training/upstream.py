"""How the published training runs a batch, on our network: every position through the output head, packing in a batch.

Source of the pattern: NVlabs/VILA 355fda9, llava/model/llava_arch.py (rows sorted by length and packed up to the
longest of the batch, or padded to it) and llava/model/language_model (logits of all positions). The packed form keeps
samples apart by the same attention as ours, and packs no worse than the published one.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from vilam3.model.config import IGNORED_LABEL
from vilam3.model.segments import ALONE, positions_of, segments_of
from vilam3.model.vila import Vila
from vilam3.train.batches import Pictures, collate, collate_packed
from vilam3.train.example import Example
from vilam3.train.packing import pack
from vilam3.train.rows import Piece
from vilam3.train.step import Batch, normalise_pixels


def padded(drawn: Sequence[Example], pictures: Pictures, *, micro_batch: int) -> list[Batch]:
    """In the order drawn, each batch padded to its longest sample."""
    return [collate(part, pictures) for part in _parts(drawn, micro_batch)]


def packed_in_batch(drawn: Sequence[Example], pictures: Pictures, *, micro_batch: int) -> list[Batch]:
    """Each batch packed into rows as long as its longest sample."""
    batches = []
    for part in _parts(drawn, micro_batch):
        lengths = [one.length for one in part]
        rows = pack(lengths, capacity=max(lengths))
        pieces = [[Piece(example=part[index], begins=ALONE) for index in row] for row in rows]
        batches.append(collate_packed(pieces, pictures))
    return batches


def loss_with_all_logits(model: Vila, batch: Batch) -> Tensor:
    """Mean cross-entropy over the targets, from the logits of every position at once."""
    pixels = None if batch.pixels_NCHW is None else normalise_pixels(batch.pixels_NCHW, model.config.vision)
    ids_BT, mask_BT = batch.input_ids_BT, batch.mask_BT
    spliced = model.splice(ids_BT, pixels, attention_mask_BT=mask_BT, labels_BT=batch.labels_BT)
    assert spliced.labels_BL is not None
    told: dict[str, object] = {}
    if batch.starts_BT is not None:
        sizes = {"tokens_per_image": model.config.tokens_per_image, "limit": model.config.max_tokens}
        segments = segments_of(ids_BT, mask_BT, batch.starts_BT, **sizes)
        told = {"segments": segments, "position_ids": positions_of(segments, rows=len(ids_BT))}
        told["attention_mask"] = spliced.embeds_BLH.new_empty(0, 0, 0, 0)
    hidden_BLH = model.llm.model(inputs_embeds=spliced.embeds_BLH, use_cache=False, **told).last_hidden_state
    logits_BLV = model.llm.lm_head(hidden_BLH).float()
    return nn.functional.cross_entropy(
        logits_BLV[:, :-1].flatten(0, 1), spliced.labels_BL[:, 1:].flatten(), ignore_index=IGNORED_LABEL
    )


def positions_computed(batch: Batch, *, tokens_per_image: int) -> tuple[int, int]:
    """Positions of a forward pass, padding included, and the real ones of them."""
    images = 0 if batch.pixels_NCHW is None else len(batch.pixels_NCHW)
    real = int(batch.mask_BT.sum()) + images * (tokens_per_image - 1)
    is_image_BT = batch.input_ids_BT.lt(0) & batch.mask_BT
    longest = int((batch.mask_BT.sum(1) + is_image_BT.sum(1) * (tokens_per_image - 1)).max())
    return longest * len(batch.mask_BT), real


def _parts(drawn: Sequence[Example], size: int) -> list[Sequence[Example]]:
    return [drawn[start : start + size] for start in range(0, len(drawn), size)]

"""One pass of the language model over replies and pieces of prompts together, on keys and values kept in places.

All tokens of a pass go through the linear layers as one matrix; only attention is done apart: once for the replies,
which have one token each, and once for each piece of a prompt. The layers are those of `Vila`, so that adapters and
quantised layers take part.

Legend: N tokens of the pass, B rows that are decoded, T tokens of a piece, L positions, Q query heads, K key-value
heads, G query heads that share one (Q / K), D width of a head, H width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from vilam3.model.batching.cache import SlotCache
from vilam3.model.batching.packed import Linear, Packing
from vilam3.model.config import IMAGE_TOKEN_ID
from vilam3.model.gated import told_families
from vilam3.model.vila import Vila


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Piece:
    """Tokens of one prompt that follow each other.

    Attributes:
        slot: Place of the request.
        start: Position of the first one; what lies before is in the place already.
        ids: Token ids with `IMAGE_TOKEN_ID` at every position of an image.
        pictures: Features (positions, H) and where among `ids` they begin.
        wants_logits: Whether the next token is asked for.
        family: Of tasks whose adapters are used, where there are any.
    """

    slot: int
    start: int
    ids: Sequence[int]
    pictures: Sequence[tuple[int, Tensor]] = ()
    wants_logits: bool = False
    family: int = 0

    @property
    def stop(self) -> int:
        """Position after the last one."""
        return self.start + len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The newest token of one reply, to be fed; `family` as of a `Piece`."""

    slot: int
    position: int
    token: int
    family: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Decoded:
    """What attention needs of the replies."""

    slots: slice | Tensor
    mask_B1L: Tensor

    @property
    def length(self) -> int:
        return self.mask_B1L.shape[-1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prompted:
    """What attention needs of a piece; without a mask it is causal from its first token."""

    slot: int
    length: int
    tokens: slice
    mask_TL: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Layer:
    """What one layer multiplies with, and the weights of its norms."""

    queries: Linear
    keys: Linear
    values: Linear
    mixed: Linear
    gate: Linear
    up: Linear
    down: Linear
    act: Callable[[Tensor], Tensor]
    before_attention_H: Tensor
    before_mlp_H: Tensor

    @classmethod
    def of(cls, layer: Any, packing: Packing) -> "_Layer":  # noqa: ANN401 - transformers' own, which has no types
        attention, mlp = layer.self_attn, layer.mlp
        return cls(
            queries=packing.of(attention.q_proj),
            keys=packing.of(attention.k_proj),
            values=packing.of(attention.v_proj),
            mixed=packing.of(attention.o_proj),
            gate=packing.of(mlp.gate_proj),
            up=packing.of(mlp.up_proj),
            down=packing.of(mlp.down_proj),
            act=mlp.act_fn,
            before_attention_H=layer.input_layernorm.weight,
            before_mlp_H=layer.post_attention_layernorm.weight,
        )

    def mlp(self, normed_NH: Tensor) -> Tensor:
        return self.down(self.act(self.gate(normed_NH)) * self.up(normed_NH))


class Network:
    """The language model on a cache of places."""

    def __init__(self, model: Vila, cache: SlotCache, *, packed_bytes: int = 0) -> None:
        """Run `model` on `cache`.

        Args:
            model: Its weights do not change any more.
            cache: Places.
            packed_bytes: Memory for a copy of weights that a processor multiplies faster with.
        """
        self.model = model
        self.cache = cache
        config = model.config.llm
        self._kv_heads = config.num_key_value_heads
        self._shared = config.num_attention_heads // config.num_key_value_heads
        self._head = config.hidden_size // config.num_attention_heads
        self._eps = config.rms_norm_eps
        packing = Packing(packed_bytes)
        self._all_layers = [_Layer.of(layer, packing) for layer in model.llm.model.layers]
        self._head_of_words = packing.of(model.llm.lm_head)
        positions_1L = torch.arange(config.max_position_embeddings, device=model.device)[None]
        like = torch.empty(0, dtype=model.dtype, device=model.device)
        cos_1LD, sin_1LD = model.llm.model.rotary_emb(like, positions_1L)
        self._cos_L1D, self._sin_L1D = cos_1LD[0][:, None], sin_1LD[0][:, None]

    @property
    def positions(self) -> int:
        """Of the longest sequence."""
        return self._cos_L1D.shape[0]

    @property
    def has_families(self) -> bool:
        """Whether what is fed belongs to families of tasks."""
        return self.model.config.adapters is not None

    @torch.inference_mode()
    def run(self, said: Sequence[Said], pieces: Sequence[Piece]) -> Tensor:
        """Feed them, and return the logits (rows, V) of the replies and of the pieces that ask for them, in order."""
        device = self.model.device
        slots = [row.slot for row in said] + [piece.slot for piece in pieces for _ in piece.ids]
        positions = [row.position for row in said] + [at for each in pieces for at in range(each.start, each.stop)]
        at = torch.tensor(slots, device=device), torch.tensor(positions, device=device)
        decoded = _decoded(said, device) if said else None
        prompted, wanted = self._prompted(pieces, first=len(said)), list(range(len(said)))
        wanted += [each.tokens.stop - 1 for each, piece in zip(prompted, pieces, strict=True) if piece.wants_logits]
        with told_families(self._families(said, pieces)):
            hidden_NH = self._layers(self._embedded(said, pieces), at, decoded, prompted)
        return self._logits(hidden_NH if len(wanted) == len(hidden_NH) else hidden_NH[wanted])

    def decode(
        self, ids_B: Tensor, at: tuple[Tensor, Tensor], *, length: int, families_B: Tensor | None = None
    ) -> Tensor:
        """Feed one token a row, for rows in the first places; nothing here depends on values, so it can be recorded.

        Args:
            ids_B: The tokens.
            at: Place and position of each.
            length: Positions attended to, at least all that are filled.
            families_B: Of tasks whose adapters are used; None for a network without.
        """
        mask_B1L = (torch.arange(length, device=ids_B.device) <= at[1][:, None])[:, None]
        decoded = _Decoded(slots=slice(0, len(ids_B)), mask_B1L=mask_B1L)
        with told_families(families_B):
            return self._logits(self._layers(self.model.llm.model.embed_tokens(ids_B), at, decoded, ()))

    def _families(self, said: Sequence[Said], pieces: Sequence[Piece]) -> Tensor | None:
        if not self.has_families:
            return None
        families = [row.family for row in said] + [piece.family for piece in pieces for _ in piece.ids]
        return torch.tensor(families, device=self.model.device)

    def _embedded(self, said: Sequence[Said], pieces: Sequence[Piece]) -> Tensor:
        ids = [row.token for row in said] + [max(token, 0) for piece in pieces for token in piece.ids]
        embeds_NH: Tensor = self.model.llm.model.embed_tokens(torch.tensor(ids, device=self.model.device))
        first = len(said)
        for piece in pieces:
            for offset, features in piece.pictures:
                embeds_NH[first + offset : first + offset + len(features)] = features
            first += len(piece.ids)
        return embeds_NH

    def _prompted(self, pieces: Sequence[Piece], *, first: int) -> list[_Prompted]:
        prompted = []
        for piece in pieces:
            mask_TL = None
            if piece.start:
                positions_T = torch.arange(piece.start, piece.stop, device=self.model.device)
                mask_TL = torch.arange(piece.stop, device=self.model.device) <= positions_T[:, None]
            tokens = slice(first, first + len(piece.ids))
            prompted.append(_Prompted(slot=piece.slot, length=piece.stop, tokens=tokens, mask_TL=mask_TL))
            first = tokens.stop
        return prompted

    def _layers(
        self, hidden_NH: Tensor, at: tuple[Tensor, Tensor], decoded: _Decoded | None, prompted: Sequence[_Prompted]
    ) -> Tensor:
        cos_N1D, sin_N1D = self._cos_L1D[at[1]], self._sin_L1D[at[1]]
        for index, layer in enumerate(self._all_layers):
            normed_NH = self._normed(hidden_NH, layer.before_attention_H)
            keys_NKD = layer.keys(normed_NH).view(-1, self._kv_heads, self._head)
            values_NKD = layer.values(normed_NH).view(-1, self._kv_heads, self._head)
            self.cache.write(index, at, _turned(keys_NKD, cos_N1D, sin_N1D), values_NKD)
            queries_NQD = layer.queries(normed_NH).view(-1, self._kv_heads * self._shared, self._head)
            mixed_NH = self._attend(index, _turned(queries_NQD, cos_N1D, sin_N1D), decoded, prompted)
            hidden_NH = hidden_NH + layer.mixed(mixed_NH)
            hidden_NH = hidden_NH + layer.mlp(self._normed(hidden_NH, layer.before_mlp_H))
        return hidden_NH

    def _attend(
        self, layer: int, queries_NQD: Tensor, decoded: _Decoded | None, prompted: Sequence[_Prompted]
    ) -> Tensor:
        mixed: list[Tensor] = []
        if decoded is not None:
            num_rows = decoded.mask_B1L.shape[0]
            # query heads that share a key-value head stand as if they were several queries of it
            queries_BKGD = queries_NQD[:num_rows].view(num_rows, self._kv_heads, self._shared, self._head)
            keys_BKLD, values_BKLD = self.cache.rows(layer, decoded.slots, decoded.length)
            mixed_BKGD = scaled_dot_product_attention(
                queries_BKGD, keys_BKLD, values_BKLD, attn_mask=decoded.mask_B1L[:, None]
            )
            mixed.append(mixed_BKGD.reshape(num_rows, -1))
        for piece in prompted:
            keys_1KLD, values_1KLD = self.cache.rows(layer, slice(piece.slot, piece.slot + 1), piece.length)
            mixed_1QTD = scaled_dot_product_attention(
                queries_NQD[piece.tokens].transpose(0, 1)[None],
                keys_1KLD,
                values_1KLD,
                attn_mask=piece.mask_TL,
                is_causal=piece.mask_TL is None,
                enable_gqa=self._shared > 1,
            )
            mixed.append(mixed_1QTD[0].transpose(0, 1).flatten(1))
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    def _normed(self, hidden_NH: Tensor, weight_H: Tensor) -> Tensor:
        return rms_norm(hidden_NH, weight_H.shape, weight_H, self._eps)

    def _logits(self, hidden_NH: Tensor) -> Tensor:
        logits_NV: Tensor = self._head_of_words(self._normed(hidden_NH, self.model.llm.model.norm.weight))
        return logits_NV


def _decoded(said: Sequence[Said], device: torch.device) -> _Decoded:
    longest = 1 + max(row.position for row in said)
    positions_B = torch.tensor([row.position for row in said], device=device)
    mask_B1L = (torch.arange(longest, device=device) <= positions_B[:, None])[:, None]
    first, count = said[0].slot, len(said)
    is_one_piece = all(row.slot == first + index for index, row in enumerate(said))
    slots = slice(first, first + count) if is_one_piece else torch.tensor([row.slot for row in said], device=device)
    return _Decoded(slots=slots, mask_B1L=mask_B1L)


def _turned(heads_NXD: Tensor, cos_N1D: Tensor, sin_N1D: Tensor) -> Tensor:
    """Rotary positions, as the published weights were trained with: halves, not pairs."""
    near, far = heads_NXD.chunk(2, dim=-1)
    return heads_NXD * cos_N1D + torch.cat((-far, near), dim=-1) * sin_N1D


def expanded(ids: Sequence[int], tokens_per_image: int) -> list[int]:
    """`ids` with `IMAGE_TOKEN_ID` at every position of each image."""
    positions: list[int] = []
    for token in ids:
        positions.extend([token] * (tokens_per_image if token == IMAGE_TOKEN_ID else 1))
    return positions

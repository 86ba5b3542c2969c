"""The network: vision tower, projector and language model, with images spliced in at their placeholders.

Source of the sequence rules: NVlabs/VILA 355fda9, llava/model/llava_arch.py; the same in NVILA (b760c34).
Legend: B rows, T token ids, L positions after image expansion, N images, K positions per image, H LLM width,
V vocabulary.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from vilam3.errors import DataError
from vilam3.model import gated
from vilam3.model.config import IGNORED_LABEL, IMAGE_TOKEN_ID, LlmConfig, VilaConfig
from vilam3.model.losses import target_loss
from vilam3.model.projector import Projector
from vilam3.model.segments import ATTENTION, positions_of, segments_of
from vilam3.model.vision import tower_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spliced:
    """Rows after image expansion, packed to the left.

    Attributes:
        embeds_BLH: Input embeddings; zero where padded.
        mask_BL: True at real positions.
        labels_BL: Targets, `IGNORED_LABEL` at images and padding; None without labels.
    """

    embeds_BLH: Tensor
    mask_BL: Tensor
    labels_BL: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Output:
    """Of one forward pass: the loss where labels were given, else logits.

    Attributes:
        loss: Mean cross-entropy over target tokens, float32 scalar.
        num_targets: Number of target tokens.
        logits_BLV: Next-token logits, right padded like `mask_BL`.
        mask_BL: True at real positions.
    """

    loss: Tensor | None = None
    num_targets: int = 0
    logits_BLV: Tensor | None = None
    mask_BL: Tensor


class Vila(nn.Module):
    """VILA 1.5 as VILA-M3 uses it, or NVILA; state-dict names are the published ones under three prefixes."""

    def __init__(self, config: VilaConfig) -> None:
        """Build it with fresh weights; see `vilam3.model.checkpoint` for loading."""
        super().__init__()
        self.config = config
        self.llm = _language_model(config.llm)
        self.vision_tower = tower_of(config)
        self.mm_projector = Projector(config)
        if config.adapters is not None:
            gated.install(self.llm.model.layers, config.adapters)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the language model's weights."""
        return self.llm.model.embed_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the language model's weights are."""
        return self.llm.model.embed_tokens.weight.device

    def encode_images(self, pixels_NCHW: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, K, H)."""
        tokens_NKH: Tensor = self.mm_projector(self.vision_tower(pixels_NCHW.to(self.device, self.dtype)))
        return tokens_NKH

    def splice(
        self,
        input_ids_BT: Tensor,
        pixels_NCHW: Tensor | None,
        *,
        attention_mask_BT: Tensor | None = None,
        labels_BT: Tensor | None = None,
    ) -> Spliced:
        """Embed the tokens and put each image's vectors at its placeholder, images in order of appearance.

        Args:
            input_ids_BT: Token ids with `IMAGE_TOKEN_ID` where an image goes.
            pixels_NCHW: All images of the batch, or None.
            attention_mask_BT: True at real tokens, padding on either side; None when nothing is padded.
            labels_BT: Targets aligned with the ids.

        Raises:
            DataError: placeholders and images disagree in number.
        """
        is_real_BT = (
            torch.ones_like(input_ids_BT, dtype=torch.bool) if attention_mask_BT is None else attention_mask_BT.bool()
        )
        is_image_BT = (input_ids_BT == IMAGE_TOKEN_ID) & is_real_BT
        num_images = 0 if pixels_NCHW is None else pixels_NCHW.shape[0]
        if int(is_image_BT.sum()) != num_images:
            raise DataError(
                f"batch: {int(is_image_BT.sum())} image placeholders but {num_images} images; they must agree"
            )
        width_BT = is_real_BT.long() + is_image_BT * (self.config.tokens_per_image - 1)
        ends_BT = width_BT.cumsum(dim=1)
        lengths_B = ends_BT[:, -1]
        longest = int(lengths_B.max())
        rows_B = torch.arange(input_ids_BT.shape[0], device=input_ids_BT.device) * longest
        starts_BT = ends_BT - width_BT + rows_B[:, None]

        is_text_BT = is_real_BT & ~is_image_BT
        places = starts_BT[is_text_BT]
        flat = self.llm.model.embed_tokens(input_ids_BT[is_text_BT])
        if pixels_NCHW is not None and num_images:
            offsets_K = torch.arange(self.config.tokens_per_image, device=places.device)
            places = torch.cat([places, (starts_BT[is_image_BT][:, None] + offsets_K).flatten()])
            flat = torch.cat([flat, self.encode_images(pixels_NCHW).flatten(0, 1)])
        batch = input_ids_BT.shape[0]
        embeds = flat.new_zeros(batch * longest, flat.shape[1]).index_copy(0, places, flat)
        columns_L = torch.arange(longest, device=places.device)
        mask_BL = columns_L < lengths_B[:, None]
        labels_BL = None
        if labels_BT is not None:
            labels_BL = labels_BT.new_full((batch * longest,), IGNORED_LABEL)
            labels_BL[starts_BT[is_text_BT]] = labels_BT[is_text_BT]
            labels_BL = labels_BL.view(batch, longest)
        return Spliced(embeds_BLH=embeds.view(batch, longest, -1), mask_BL=mask_BL, labels_BL=labels_BL)

    def families_at(
        self, input_ids_BT: Tensor, families_BT: Tensor | None, *, attention_mask_BT: Tensor | None, limit: int
    ) -> dict[str, Tensor]:
        """What the language model is told of families, position by position; nothing where nothing is known."""
        if families_BT is None:
            return {}
        is_real_BT = torch.ones_like(input_ids_BT) if attention_mask_BT is None else attention_mask_BT
        families_BL = gated.at_positions(
            families_BT, input_ids_BT, is_real_BT.bool(), tokens_per_image=self.config.tokens_per_image
        )
        return {gated.ARGUMENT: families_BL[:, :limit]}

    def forward(
        self,
        input_ids_BT: Tensor,
        pixels_NCHW: Tensor | None = None,
        attention_mask_BT: Tensor | None = None,
        labels_BT: Tensor | None = None,
        starts_BT: Tensor | None = None,
        families_BT: Tensor | None = None,
    ) -> Output:
        """Score a batch: the training loss where labels are given, else all logits.

        Rows longer than the context are cut at its end, as the published training does.

        Args:
            input_ids_BT: Token ids with `IMAGE_TOKEN_ID` where an image goes, padded on the right.
            pixels_NCHW: All images of the batch, or None.
            attention_mask_BT: True at real tokens; None when nothing is padded.
            labels_BT: Targets aligned with the ids.
            starts_BT: How the conversations of rows that hold several begin, see `vilam3.model.segments`; None where
                each holds one.
            families_BT: Number of the family of tasks that each token belongs to, see `vilam3.model.gated`; None is
                the default, or a network without adapters.

        Raises:
            DataError: placeholders and images disagree in number.
        """
        spliced = self.splice(input_ids_BT, pixels_NCHW, attention_mask_BT=attention_mask_BT, labels_BT=labels_BT)
        limit = self.config.max_tokens
        packed: dict[str, Any] = {}
        if starts_BT is not None:
            is_real_BT = torch.ones_like(input_ids_BT) if attention_mask_BT is None else attention_mask_BT
            segments = segments_of(
                input_ids_BT,
                is_real_BT.bool(),
                starts_BT,
                tokens_per_image=self.config.tokens_per_image,
                limit=limit,
            )
            positions_BL = positions_of(segments, rows=input_ids_BT.shape[0]).to(self.device)
            # A mask of four dimensions is taken for ready-made: transformers makes none over the whole row.
            no_mask = spliced.embeds_BLH.new_empty(0, 0, 0, 0)
            packed = {"segments": segments, "position_ids": positions_BL, "attention_mask": no_mask}
        told = self.families_at(input_ids_BT, families_BT, attention_mask_BT=attention_mask_BT, limit=limit)
        # Padding is on the right and attention is causal, so real positions never see it: no mask is needed.
        hidden_BLH = self.llm.model(
            inputs_embeds=spliced.embeds_BLH[:, :limit], use_cache=False, **packed, **told
        ).last_hidden_state
        mask_BL = spliced.mask_BL[:, :limit]
        if spliced.labels_BL is None:
            return Output(logits_BLV=self.llm.lm_head(hidden_BLH), mask_BL=mask_BL)
        total, num_targets = target_loss(self.llm.lm_head, hidden_BLH, spliced.labels_BL[:, :limit])
        return Output(loss=total / max(num_targets, 1), num_targets=num_targets, mask_BL=mask_BL)


def _language_model(config: LlmConfig) -> LlamaForCausalLM | Qwen2ForCausalLM:
    values = asdict(config)
    for name in ("family", "tokenizer_model_max_length", "bos_token_id", "eos_token_id", "pad_token_id"):
        del values[name]  # the first is told by the class, the others are matters of the tokenizer
    scaling = dict(values.pop("rope_scaling") or {"rope_type": "default"})
    scaling.setdefault("rope_type", scaling.pop("type", "default"))
    values["rope_parameters"] = {**scaling, "rope_theta": values.pop("rope_theta")}
    others = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "attn_implementation": ATTENTION}
    if config.family == "qwen2":
        del values["attention_bias"]
        return Qwen2ForCausalLM(Qwen2Config(**values, **others))
    return LlamaForCausalLM(LlamaConfig(**values, **others))

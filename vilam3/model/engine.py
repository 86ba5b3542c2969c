"""The engine that runs the network in this process: batched decoding with a key-value cache, streamed or whole.

Legend: B rows, V vocabulary, L positions.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from vilam3.dialogue.messages import Generation, Message, Sampling
from vilam3.errors import DataError, EngineError
from vilam3.model.chat import Prompt, assemble, embedded_length
from vilam3.model.checkpoint import Loaded
from vilam3.model.detokenise import Detokeniser
from vilam3.model.images import pixels_NCHW

RESERVED_SHARE = 8  # an eighth of the positions is kept free for the reply
DEFAULT_BATCH = 16


@dataclass(slots=True, kw_only=True, eq=False)
class _Row:
    """One reply being decoded."""

    prompt: Prompt
    text: Detokeniser
    max_new: int
    random: torch.Generator | None
    ids: list[int] = field(default_factory=list)
    reason: Literal["stop", "length", "cancelled"] | None = None

    def generation(self) -> Generation:
        self.text.finish()
        return Generation(
            text=self.text.text,
            prompt_tokens=self.prompt.num_embedded,
            completion_tokens=len(self.ids),
            finish_reason=self.reason or "cancelled",
        )


class TorchEngine:
    """`vilam3.dialogue.messages.Engine` on a loaded network; safe to share between threads.

    One lock is taken for each network pass and never while a consumer is waited for, so streams take turns.
    """

    def __init__(
        self, loaded: Loaded, *, name: str = "vila-m3", batch_size: int = DEFAULT_BATCH, cue: bool = True
    ) -> None:
        """Serve `loaded`.

        Args:
            loaded: The network.
            name: What the engine calls itself.
            batch_size: Most conversations decoded side by side.
            cue: Whether prompts end in the assistant's cue. The published demo leaves it out for ``v1`` and
                ``hermes-2``, where the model then has to write it; see `Template.demo_cue`.
        """
        self.name = name
        self.loaded = loaded
        self.batch_size = batch_size
        self.cue = cue
        self._stops = sorted(loaded.template.stop_ids(loaded.tokenizer))
        self._lock = threading.Lock()

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, *, cancelled: threading.Event | None = None
    ) -> Iterator[str | Generation]:
        """See `Engine.stream`."""
        row = self._row(messages, sampling)
        for _ in self._steps([row], sampling, cancelled):
            piece = row.text.add([row.ids[-1]]) if row.reason != "stop" else ""
            if piece:
                yield piece
        last = row.text.finish()
        if last:
            yield last
        yield row.generation()

    def generate(self, batch: Sequence[Sequence[Message]], sampling: Sampling) -> list[Generation]:
        """See `Engine.generate`; conversations of similar length are decoded side by side."""
        rows = [self._row(messages, sampling) for messages in batch]
        by_length = sorted(rows, key=lambda row: row.prompt.num_embedded)
        for start in range(0, len(rows), self.batch_size):
            group = by_length[start : start + self.batch_size]
            for _ in self._steps(group, sampling, None):
                pass
            for row in group:
                row.text.add(row.ids[:-1] if row.reason == "stop" else row.ids)
        return [row.generation() for row in rows]

    def _row(self, messages: Sequence[Message], sampling: Sampling) -> _Row:
        config, tokenizer = self.loaded.config, self.loaded.tokenizer
        positions = config.llm.max_position_embeddings
        reserved = min(sampling.max_new_tokens, positions // RESERVED_SHARE)
        prompt = assemble(
            messages,
            tokenizer,
            self.loaded.template,
            max_tokens=min(config.max_tokens, positions - reserved),
            tokens_per_image=config.tokens_per_image,
            system_prompt=sampling.system_prompt,
            cue=self.cue,
        )
        random = None
        if sampling.temperature > 0:
            random = torch.Generator(device="cpu")
            random.seed() if sampling.seed is None else random.manual_seed(sampling.seed)
        return _Row(
            prompt=prompt,
            text=Detokeniser(tokenizer),
            max_new=min(sampling.max_new_tokens, positions - prompt.num_embedded),
            random=random,
        )

    def _steps(self, rows: Sequence[_Row], sampling: Sampling, cancelled: threading.Event | None) -> Iterator[None]:
        """Decode until every row has ended; yields after each token."""
        decoding: _Decoding | None = None
        while any(row.reason is None for row in rows):
            if cancelled is not None and cancelled.is_set():
                for row in rows:
                    row.reason = row.reason or "cancelled"
                return
            try:
                with self._lock:
                    decoding = self._advance(rows, sampling, decoding)
            except RuntimeError as error:  # torch reports exhausted memory and device faults so
                raise EngineError(
                    f"engine {self.name}: the network failed ({error}); see the log of this process"
                ) from error
            yield

    @torch.inference_mode()
    def _advance(self, rows: Sequence[_Row], sampling: Sampling, decoding: "_Decoding | None") -> "_Decoding":
        model = self.loaded.model
        if decoding is None:
            ids_BT, mask_BT = padded([row.prompt.input_ids for row in rows], device=model.device)
            pictures = [image for row in rows for image in row.prompt.images]
            pixels = pixels_NCHW(pictures, self.loaded.config)
            spliced = model.splice(ids_BT, pixels, attention_mask_BT=mask_BT, pad_left=True)
            logits_BV, cache = model.prefill(spliced)
            mask_BL = spliced.mask_BL
        else:
            cache = decoding.cache
            mask_BL = torch.nn.functional.pad(decoding.mask_BL, (0, 1), value=True)
            logits_BV = model.decode(decoding.ids_B, cache=cache, mask_BL=mask_BL)
        chosen = [self._choose(row, logits_V, sampling) for row, logits_V in zip(rows, logits_BV.float(), strict=True)]
        return _Decoding(cache=cache, mask_BL=mask_BL, ids_B=torch.tensor(chosen, device=model.device))

    def _choose(self, row: _Row, logits_V: Tensor, sampling: Sampling) -> int:
        if row.reason is not None:
            return self._stops[0]  # the row has ended; what it is fed no longer matters
        if len(row.ids) < sampling.min_new_tokens:
            logits_V = logits_V.index_fill(0, torch.tensor(self._stops, device=logits_V.device), float("-inf"))
        token = int(logits_V.argmax()) if row.random is None else _sample(logits_V.cpu(), sampling, row.random)
        row.ids.append(token)
        if token in self._stops:
            row.reason = "stop"
        elif len(row.ids) >= row.max_new:
            row.reason = "length"
        return token


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Decoding:
    """Between two tokens of a batch."""

    cache: Cache
    mask_BL: Tensor
    ids_B: Tensor


def padded(rows: Sequence[Sequence[int]], *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Right-padded ids (B, T) and their mask, True at real tokens."""
    longest = max(len(row) for row in rows)
    ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    mask_BT = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids_BT[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask_BT[index, : len(row)] = True
    return ids_BT.to(device), mask_BT.to(device)


def _sample(logits_V: Tensor, sampling: Sampling, random: torch.Generator) -> int:
    """Draw from the smallest set of tokens whose probabilities reach `top_p`."""
    probabilities, order = (logits_V / sampling.temperature).softmax(dim=-1).sort(descending=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    kept[0] = probabilities[0]
    return int(order[torch.multinomial(kept, 1, generator=random)])


def greedy(
    loaded: Loaded, input_ids: Sequence[int], pixels: Tensor | None, *, max_new: int
) -> tuple[Tensor, list[int]]:
    """Log-probabilities (V) after a prompt, and the greedy continuation, its end token included.

    Raises:
        DataError: the prompt is longer than the context.
    """
    config = loaded.config
    length = embedded_length(input_ids, config.tokens_per_image)
    if length > config.max_tokens:
        raise DataError(
            f"prompt: takes {length} positions with its images, the context holds {config.max_tokens}; shorten it"
        )
    stops = loaded.template.stop_ids(loaded.tokenizer)
    with torch.inference_mode():
        spliced = loaded.model.splice(torch.tensor([list(input_ids)], device=loaded.model.device), pixels)
        logits_BV, cache = loaded.model.prefill(spliced)
        first_V = logits_BV[0].float().log_softmax(dim=-1).cpu()
        ids: list[int] = []
        mask_BL = spliced.mask_BL
        while len(ids) < min(max_new, config.llm.max_position_embeddings - length):
            ids.append(int(logits_BV[0].argmax()))
            if ids[-1] in stops:
                break
            mask_BL = torch.nn.functional.pad(mask_BL, (0, 1), value=True)
            logits_BV = loaded.model.decode(torch.tensor(ids[-1:], device=mask_BL.device), cache=cache, mask_BL=mask_BL)
    return first_V, ids

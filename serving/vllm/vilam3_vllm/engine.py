"""`vilam3.dialogue.messages.Engine` on vLLM.

Prompts, end tokens, pictures and text are made by vilam3, as for its own engine; vLLM schedules and computes.
"""

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from PIL import Image
from vllm import EngineArgs, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.llm_engine import LLMEngine

from vilam3.dialogue.messages import EngineStats, Generation, Message, Sampling
from vilam3.errors import DataError, UserError
from vilam3.model.batching.features import image_key
from vilam3.model.checkpoint import choose_template, layout_of, read_config
from vilam3.model.config import IMAGE_TOKEN_ID
from vilam3.model.detokenise import Detokeniser
from vilam3.model.prompting import Voice
from vilam3.model.ticket import DecodingTicket, Mailbox
from vilam3.model.tokenizer import load_tokenizer
from vilam3_vllm import layout, register
from vilam3_vllm.stepping import Asked, Stepping

MOST_IMAGES = 32  # of one prompt; the context holds fewer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Tokens that were said, the end token included, and the log-probabilities before each."""

    ids: tuple[int, ...]
    logprobs: tuple[Mapping[int, float], ...]


def load(model: Path, *, slots: int, waiting: int, options: Mapping[str, Any]) -> "VllmEngine":
    """The engine for a checkpoint; the entry point that ``vilam3 serve --engine vllm`` calls.

    Args:
        model: Checkpoint directory of either layout.
        slots: Replies that are decoded side by side.
        waiting: Requests that may wait besides.
        options: vLLM's own engine arguments, such as ``tensor_parallel_size``; and ``lora``, the directory of an
            adapter.

    Raises:
        UserError: vLLM has no such argument.
    """
    return VllmEngine(model, slots=slots, waiting=waiting, options=options)


class VllmEngine:
    """Safe to share between threads."""

    def __init__(self, model: Path, *, slots: int = 64, waiting: int = 256, options: Mapping[str, Any]) -> None:
        """Load it; see `load`."""
        register()
        self.name = "vila-m3-vllm"
        self._slots = slots
        self._voice = _voice(model)
        own = dict(options)
        lora = own.pop("lora", None)
        adapter = LoRARequest("adapter", 1, str(lora)) if lora else None
        self._folder = tempfile.TemporaryDirectory(prefix="vilam3-vllm-")
        written = layout.write(model, Path(self._folder.name) / "model")
        engine = _engine(written, slots=slots, has_adapter=adapter is not None, options=own)
        self._stepping = Stepping(engine, slots=slots, waiting=waiting, adapter=adapter)

    def submit(self, messages: Sequence[Message], sampling: Sampling, *, priority: int = 0) -> DecodingTicket:
        """See `Engine.submit`."""
        prompt, most = self._voice.fit(messages, sampling)
        params = self._params(sampling, most=most)
        return self._queued(self._asked(prompt.input_ids, prompt.images, sampling, params, priority), sampling)

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, *, cancelled: threading.Event | None = None
    ) -> Iterator[str | Generation]:
        """See `Engine.stream`."""
        ticket = self.submit(messages, sampling)
        with closing(iter(ticket)) as pieces:
            for piece in pieces:
                if cancelled is not None and cancelled.is_set():
                    ticket.cancel()
                yield piece

    def generate(self, batch: Sequence[Sequence[Message]], sampling: Sampling) -> list[Generation]:
        """See `Engine.generate`."""
        replies: list[Generation] = []
        for start in range(0, len(batch), self._slots):
            tickets = [self.submit(each, sampling) for each in batch[start : start + self._slots]]
            replies += [_whole(ticket) for ticket in tickets]
        return replies

    def stats(self) -> EngineStats:
        """See `Engine.stats`."""
        return self._stepping.stats()

    @property
    def lacking(self) -> str:
        """Why it can answer nothing any more, or nothing."""
        return self._stepping.lacking

    def close(self) -> None:
        """End what is in flight as cancelled, and vLLM's processes."""
        self._stepping.close()
        self._folder.cleanup()

    def trace(self, input_ids: Sequence[int], images: Sequence[Image.Image], *, max_new: int) -> Trace:
        """Greedy continuation of raw token ids, with -200 at each image, and all log-probabilities."""
        sampling = Sampling(min_new_tokens=0)
        params = self._params(sampling, most=max_new, logprobs=-1)
        asked = self._asked(input_ids, images, sampling, params)
        _whole(self._queued(asked, sampling))
        return Trace(ids=tuple(asked.mailbox.said), logprobs=tuple(asked.logprobs))

    def _params(self, sampling: Sampling, *, most: int, logprobs: int | None = None) -> SamplingParams:
        pattern = sampling.pattern
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p if sampling.temperature > 0 else 1.0,
            seed=sampling.seed,
            max_tokens=most,
            min_tokens=min(sampling.min_new_tokens, most),
            stop_token_ids=sorted(self._voice.stop_ids),
            structured_outputs=None if pattern is None else StructuredOutputsParams(regex=pattern),
            detokenize=False,
            logprobs=logprobs,
            output_kind=RequestOutputKind.DELTA,
        )

    def _asked(
        self,
        input_ids: Sequence[int],
        images: Sequence[Image.Image],
        sampling: Sampling,
        params: SamplingParams,
        priority: int = 0,
    ) -> Asked:
        token = layout.image_token_id(self._voice.tokenizer)
        if token in input_ids:
            raise DataError("prompt: holds the padding token, which stands for pictures here; leave it out")
        prompt: dict[str, Any] = {"prompt_token_ids": [token if each == IMAGE_TOKEN_ID else each for each in input_ids]}
        if images:
            prompt["multi_modal_data"] = {"image": [image.convert("RGB") for image in images]}
            # what is remembered of a picture stays in its scope, as the rest does by the salt
            prompt["multi_modal_uuids"] = {"image": [image_key(image, scope=sampling.scope).hex() for image in images]}
        if sampling.scope:
            prompt["cache_salt"] = sampling.scope
        length = len(input_ids) + len(images) * (self._voice.config.tokens_per_image - 1)
        mailbox = Mailbox(prompt_tokens=length)
        return Asked(prompt=prompt, params=params, priority=priority, mailbox=mailbox, num_images=len(images))

    def _queued(self, asked: Asked, sampling: Sampling) -> DecodingTicket:
        self._stepping.submit(asked)
        text = Detokeniser(self._voice.tokenizer)
        return DecodingTicket(asked.mailbox, text, wake=lambda: None, stops=sampling.stop)


def _voice(model: Path) -> Voice:
    config = read_config(model)
    tokenizer = load_tokenizer(model / "llm" if layout_of(model) == "folders" else model)
    return Voice(config=config, tokenizer=tokenizer, template=choose_template(config, tokenizer))


def _engine(model: Path, *, slots: int, has_adapter: bool, options: Mapping[str, Any]) -> LLMEngine:
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    given: dict[str, Any] = {
        "model": str(model),
        "max_num_seqs": slots,
        "scheduling_policy": "priority",
        "enable_prefix_caching": True,
        "enable_lora": has_adapter,
        "limit_mm_per_prompt": {"image": MOST_IMAGES},
        "disable_log_stats": True,
        **options,
    }
    try:
        arguments = EngineArgs(**given)
    except TypeError as error:
        raise UserError(f"engine options: {error}; see vLLM's engine arguments") from error
    return LLMEngine.from_engine_args(arguments)


def _whole(ticket: DecodingTicket) -> Generation:
    *_, last = ticket
    return cast("Generation", last)

"""The engine that runs the network in this process: continuous batching, streamed or whole."""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import cast

from PIL import Image
from torch import Tensor

from vilam3.dialogue.messages import EngineStats, Generation, Message, Sampling
from vilam3.errors import DataError
from vilam3.model.batching.choose import random_of
from vilam3.model.batching.features import image_key
from vilam3.model.batching.loop import Limits, Loop
from vilam3.model.batching.prefixes import KeyChain
from vilam3.model.batching.request import Picture, Request
from vilam3.model.chat import embedded_length
from vilam3.model.checkpoint import Loaded
from vilam3.model.config import IMAGE_TOKEN_ID
from vilam3.model.detokenise import Detokeniser
from vilam3.model.images import pixels_CHW
from vilam3.model.prompting import Voice
from vilam3.model.ticket import DecodingTicket, Mailbox


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """What the network said after a prompt, in numbers.

    Attributes:
        ids: Tokens, the end token included.
        logprobs_TV: Of what might have stood at each of them, over the whole vocabulary; at least those of the first.
    """

    ids: tuple[int, ...]
    logprobs_TV: tuple[Tensor, ...]


class TorchEngine:
    """`vilam3.dialogue.messages.Engine` on a loaded network; safe to share between threads."""

    def __init__(
        self, loaded: Loaded, *, name: str = "vila-m3", limits: Limits | None = None, cue: bool = True
    ) -> None:
        """Serve `loaded`.

        Args:
            loaded: The network.
            name: What the engine calls itself.
            limits: What it may take.
            cue: See `Voice`.
        """
        self.name = name
        self.loaded = loaded
        self._voice = Voice(config=loaded.config, tokenizer=loaded.tokenizer, template=loaded.template, cue=cue)
        self._loop = Loop(loaded, limits or Limits())

    def submit(self, messages: Sequence[Message], sampling: Sampling, *, priority: int = 0) -> DecodingTicket:
        """See `Engine.submit`."""
        return self._queued(self._request(messages, sampling, priority=priority))

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, *, cancelled: threading.Event | None = None
    ) -> Iterator[str | Generation]:
        """See `Engine.stream`."""
        ticket = self.submit(messages, sampling)
        with closing(iter(ticket)) as pieces:
            for piece in pieces:
                yield piece
                if cancelled is not None and cancelled.is_set():
                    ticket.cancel()

    def generate(self, batch: Sequence[Sequence[Message]], sampling: Sampling) -> list[Generation]:
        """See `Engine.generate`."""
        tickets: list[DecodingTicket] = []
        try:
            tickets.extend(self._awaited(self._request(each, sampling)) for each in batch)
            return [_whole(ticket) for ticket in tickets]
        finally:
            for ticket in tickets:  # harmless to those that have ended
                ticket.cancel()

    def stats(self) -> EngineStats:
        """See `Engine.stats`."""
        return self._loop.stats()

    def close(self) -> None:
        """End what is in flight as cancelled; the engine is of no use afterwards."""
        self._loop.close()

    def trace(self, input_ids: Sequence[int], images: Sequence[Image.Image], *, max_new: int) -> Trace:
        """Greedy continuation of raw token ids, with -200 at each image; no token is forbidden.

        Raises:
            DataError: the prompt is longer than the context, or images and placeholders disagree.
        """
        config = self.loaded.config
        length = embedded_length(input_ids, config.tokens_per_image)
        if length > config.max_tokens:
            raise DataError(
                f"prompt: takes {length} positions with its images, the context holds {config.max_tokens}; shorten it"
            )
        if input_ids.count(IMAGE_TOKEN_ID) != len(images):
            raise DataError(f"prompt: has {input_ids.count(IMAGE_TOKEN_ID)} places for {len(images)} images")
        most = min(max_new, config.llm.max_position_embeddings - length)
        request = self._prepared(input_ids, images, Sampling(min_new_tokens=0), most=max(most, 1))
        request.logprobs = []
        _whole(self._awaited(request))
        return Trace(ids=tuple(request.said[:most]), logprobs_TV=tuple(request.logprobs))

    def _request(self, messages: Sequence[Message], sampling: Sampling, *, priority: int = 0) -> Request:
        if sampling.pattern is not None:
            raise DataError("pattern: this engine decodes freely; leave it out, or serve with the engine vllm")
        prompt, most = self._voice.fit(messages, sampling)
        return self._prepared(prompt.input_ids, prompt.images, sampling, most=most, priority=priority)

    def _prepared(
        self,
        input_ids: Sequence[int],
        images: Sequence[Image.Image],
        sampling: Sampling,
        *,
        most: int,
        priority: int = 0,
    ) -> Request:
        """The request with all that a caller's thread can do for it: pixels, and keys of what may be remembered."""
        ids: list[int] = []
        pictures: list[Picture] = []
        family = self._voice.family_of(sampling)  # keys and values are of the family whose adapters made them
        chain = KeyChain(scope=sampling.scope if family is None else f"{sampling.scope} {family}")
        per_image, shown = self.loaded.config.tokens_per_image, iter(images)
        for is_image, run in groupby(input_ids, IMAGE_TOKEN_ID.__eq__):
            tokens = list(run)
            if not is_image:
                chain.add_tokens(tokens)
                ids.extend(tokens)
                continue
            for token in tokens:
                pictures.append(self._picture(next(shown), start=len(ids), scope=sampling.scope))
                chain.add_image(pictures[-1].key, per_image)
                ids.extend([token] * per_image)
        return Request(
            length=len(ids),
            priority=priority,
            ids=ids,
            pictures=pictures,
            chain=chain,
            sampling=sampling,
            family=family or 0,
            random=random_of(sampling),
            most=most,
            mailbox=Mailbox(prompt_tokens=len(ids)),
        )

    def _picture(self, image: Image.Image, *, start: int, scope: str) -> Picture:
        key = image_key(image, scope=scope)
        read = partial(pixels_CHW, image, self.loaded.config)
        return Picture(key=key, start=start, pixels_CHW=None if key in self._loop.features else read(), reread=read)

    def _awaited(self, request: Request) -> DecodingTicket:
        """A request whose caller waits for the whole: nobody reads on the way, unless to find where it ends."""
        if not request.sampling.stop:
            request.mailbox.every_s = math.inf
        return self._queued(request, patiently=True)

    def _queued(self, request: Request, *, patiently: bool = False) -> DecodingTicket:
        self._loop.submit(request, patiently=patiently)
        text = Detokeniser(self.loaded.tokenizer)
        return DecodingTicket(request.mailbox, text, wake=self._loop.wake, stops=request.sampling.stop)


def _whole(ticket: DecodingTicket) -> Generation:
    *_, last = ticket
    return cast("Generation", last)

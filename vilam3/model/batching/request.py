"""A request in flight, and the ticket its caller reads from: the loop puts tokens in, the caller makes text of them."""

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from vilam3.dialogue.messages import Generation, Sampling
from vilam3.errors import VilaM3Error
from vilam3.model.batching.choose import Row
from vilam3.model.batching.prefixes import KeyChain
from vilam3.model.batching.schedule import Entry
from vilam3.model.detokenise import Detokeniser

POLL_S = 0.05  # how often a caller who waits for a token may look at something else
Reason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """No token follows."""

    reason: Reason


@dataclass(slots=True, kw_only=True, eq=False)
class Picture:
    """One image of a prompt.

    Attributes:
        key: What it shows, and in which scope.
        start: Its first position in the prompt.
        pixels_CHW: Input of the vision tower; None where its features were remembered when it was asked for.
        reread: Makes the input again, should the features have been forgotten meanwhile.
        features_KH: Of the vision tower, while its positions are being computed.
    """

    key: bytes
    start: int
    pixels_CHW: Tensor | None
    reread: Callable[[], Tensor]
    features_KH: Tensor | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Request(Entry):
    """What the loop works on.

    Attributes:
        ids: The prompt, `IMAGE_TOKEN_ID` at every position of an image.
        pictures: Its images, in order.
        chain: Keys of the full blocks of its prompt, and of its reply once that has ended.
        sampling: How to decode.
        random: Its own source of chance, or None for greedy.
        most: Tokens it may say.
        arrived_s: When it was asked for.
        said: Tokens so far.
        reused: Positions that were remembered.
        cancelled: Set by the caller.
        told: What the caller has yet to read.
        logprobs: Of each token, over the whole vocabulary, where they are kept.
    """

    ids: Sequence[int]
    pictures: Sequence[Picture] = ()
    chain: KeyChain
    sampling: Sampling
    random: torch.Generator | None = None
    most: int
    arrived_s: float = 0.0
    said: list[int] = field(default_factory=list)
    reused: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    told: "queue.SimpleQueue[int | End | VilaM3Error]" = field(default_factory=queue.SimpleQueue)
    logprobs: list[Tensor] | None = None

    def row(self) -> Row:
        """What decides on its next token."""
        return Row(sampling=self.sampling, random=self.random, num_said=len(self.said))


class DecodingTicket:
    """`vilam3.dialogue.messages.Ticket` of a request; to be iterated once."""

    def __init__(self, request: Request, text: Detokeniser, *, wake: Callable[[], None]) -> None:
        """Read what `request` is told.

        Args:
            request: Queued already.
            text: Empty.
            wake: Lets the loop look at what was cancelled.
        """
        self.request = request
        self._text = text
        self._wake = wake

    def cancel(self) -> None:
        """See `Ticket.cancel`."""
        self.request.cancelled.set()
        self._wake()

    def __iter__(self) -> Generator[str | Generation]:
        """See `Engine.stream`; leaving it early cancels the request."""
        try:
            while True:
                ids, end = self._newest()
                piece = self._text.add(ids) if ids else ""
                if end is not None:
                    piece += self._text.finish()
                if piece or end is None:
                    yield piece
                if end is not None:
                    yield self._generation(end)
                    return
        finally:
            self.cancel()

    def _newest(self) -> tuple[list[int], End | None]:
        """All tokens that have come, and the end if it has; nothing after a moment."""
        ids: list[int] = []
        try:
            told = self.request.told.get(timeout=POLL_S)
            while isinstance(told, int):
                ids.append(told)
                told = self.request.told.get_nowait()
        except queue.Empty:
            return ids, None
        if isinstance(told, VilaM3Error):
            raise told
        return ids, told

    def _generation(self, end: End) -> Generation:
        request = self.request
        return Generation(
            text=self._text.text,
            prompt_tokens=request.length,
            completion_tokens=len(request.said),
            finish_reason=end.reason,
            reused_tokens=request.reused,
        )

"""A request in flight, as the loop works on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vilam3.dialogue.messages import Sampling
from vilam3.model.batching.choose import Row
from vilam3.model.batching.prefixes import KeyChain
from vilam3.model.batching.schedule import Entry
from vilam3.model.ticket import Mailbox


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
        recalled: Remembered blocks of the prompt's beginning, until they are in its place.
        chain: Keys of the full blocks of its prompt, and of its reply once that has ended.
        sampling: How to decode.
        family: Of tasks whose adapters are used.
        random: Its own source of chance, or None for greedy.
        most: Tokens it may say.
        mailbox: What the caller is told.
        arrived_s: When it was asked for.
        logprobs: Of each token, over the whole vocabulary, where they are kept.
    """

    ids: Sequence[int]
    pictures: Sequence[Picture] = ()
    recalled: Sequence[Tensor] = ()
    chain: KeyChain
    sampling: Sampling
    family: int = 0
    random: torch.Generator | None = None
    most: int
    mailbox: Mailbox
    arrived_s: float = 0.0
    logprobs: list[Tensor] | None = None

    @property
    def said(self) -> list[int]:
        """Tokens so far."""
        return self.mailbox.said

    def row(self) -> Row:
        """What decides on its next token."""
        return Row(sampling=self.sampling, random=self.random, num_said=len(self.said))

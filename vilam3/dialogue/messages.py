"""Messages of a conversation, and what an engine is asked for."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from PIL import Image

Role = Literal["user", "assistant", "expert"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Message:
    """One message; `images` fill the ``<image>`` literals of `text` in order."""

    role: Role
    text: str
    images: tuple[Image.Image, ...] = ()


def squash(messages: Sequence[Message]) -> list[Message]:
    """Merge each run of expert messages into one user message, texts concatenated as they are.

    Source: Project-MONAI VLM-Radiology-Agent-Framework fc8c5a7, the demo's ``squash_expert_messages_into_user``.
    """
    squashed: list[Message] = []
    in_expert_run = False
    for message in messages:
        if message.role != "expert":
            squashed.append(message)
        elif in_expert_run:
            last = squashed.pop()
            squashed.append(Message(role="user", text=last.text + message.text, images=last.images + message.images))
        else:
            squashed.append(Message(role="user", text=message.text, images=message.images))
        in_expert_run = message.role == "expert"
    return squashed


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to decode; the defaults are the published demo's.

    Attributes:
        temperature: 0 means greedy.
        top_p: Nucleus mass, in (0, 1]; used only when sampling.
        max_new_tokens: Upper bound on generated tokens.
        min_new_tokens: No end token before this many.
        seed: Makes sampling repeatable.
        system_prompt: Replaces the template's own system text when given.
        stop: Texts after which a reply ends; the one that ended it stays, so that a trigger keeps its closing.
        pattern: Regular expression that a reply must match, for engines that can be guided; others refuse it.
        scope: On whose behalf, such as a tenant; what an engine remembers of a prompt serves the same scope alone.
        task: Whose adapters are used, where the model has some, see `vilam3.model.families`; empty is its default.
    """

    temperature: float = 0.0
    top_p: float = 0.9
    max_new_tokens: int = 1024
    min_new_tokens: int = 1
    seed: int | None = None
    system_prompt: str | None = None
    stop: tuple[str, ...] = ()
    pattern: str | None = None
    scope: str = ""
    task: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A finished reply.

    Attributes:
        text: All of it.
        prompt_tokens: Positions of the prompt, images included.
        completion_tokens: Generated tokens.
        finish_reason: Why it ended.
        model_digest: Of the weights that made it, where the engine is elsewhere and may change; else empty.
        reused_tokens: Positions of the prompt that the engine remembered from an earlier one.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length", "cancelled"]
    model_digest: str = ""
    reused_tokens: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstTokens:
    """How long requests waited for their first token, as a histogram.

    Attributes:
        bounds_s: Upper bounds of the buckets; one more bucket holds what is beyond the last.
        counts: Requests in each bucket.
        total_s: Sum of all their waits.
    """

    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    total_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What an engine does now, and has done since it began.

    Attributes:
        running: Requests in a place of the batch.
        waiting: Requests in the queue.
        free_slots: Places of the batch that nobody has.
        prompt_tokens: Positions of all prompts that were begun.
        prompt_tokens_reused: Of these, how many were remembered.
        generated_tokens: Of all replies.
        images: Pictures of all prompts that were begun.
        images_reused: Of these, how many were not encoded again, since the engine remembered them or their positions.
        tokens_per_s: Generated lately, over all requests.
        first_tokens: From the arrival of a request to its first token.
    """

    running: int = 0
    waiting: int = 0
    free_slots: int = 0
    prompt_tokens: int = 0
    prompt_tokens_reused: int = 0
    generated_tokens: int = 0
    images: int = 0
    images_reused: int = 0
    tokens_per_s: float = 0.0
    first_tokens: FirstTokens | None = None


class Ticket(Protocol):
    """A reply that was asked for."""

    def __iter__(self) -> Iterator[str | Generation]:
        """Pieces as they are decoded, then one `Generation`; see `Engine.stream`."""
        ...

    def cancel(self) -> None:
        """End it before its next token; the iteration then ends with what there is. Harmless at any time."""
        ...


class Engine(Protocol):
    """Turns messages into text; what it remembers between calls changes how fast it is and nothing else."""

    name: str

    def submit(self, messages: Sequence[Message], sampling: Sampling, *, priority: int = 0) -> Ticket:
        """Ask for a reply; it is worked on at once, or when the ticket is first looked at.

        Args:
            messages: The conversation, the newest question last.
            sampling: How to decode, and on whose behalf.
            priority: A lower one is begun earlier; equals in order of arrival.

        Raises:
            BusyError: as many wait as may.
            DataError: the newest question does not fit the context, or images and placeholders disagree.
        """
        ...

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, *, cancelled: threading.Event | None = None
    ) -> Iterator[str | Generation]:
        """Yield text pieces as they are decoded, then one `Generation` with the whole text.

        A piece may be empty: the engine has nothing yet, and the caller may look whether to go on. Leaving early ends
        the work.

        Raises:
            BusyError: as many wait as may.
            DataError: the newest question does not fit the context, or images and placeholders disagree.
            EngineError: the engine failed.
        """
        ...

    def generate(self, batch: Sequence[Sequence[Message]], sampling: Sampling) -> list[Generation]:
        """Answer several conversations at once, in order."""
        ...

    def stats(self) -> EngineStats:
        """What it does now, and has done."""
        ...

    def close(self) -> None:
        """End what is in flight and give back what it holds; it is of no use afterwards."""
        ...

"""Messages of a conversation, and what an engine is asked for."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    """

    temperature: float = 0.0
    top_p: float = 0.9
    max_new_tokens: int = 1024
    min_new_tokens: int = 1
    seed: int | None = None
    system_prompt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A finished reply.

    Attributes:
        text: All of it.
        prompt_tokens: Positions of the prompt, images included.
        completion_tokens: Generated tokens.
        finish_reason: Why it ended.
        model_digest: Of the weights that made it, where the engine is elsewhere and may change; else empty.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length", "cancelled"]
    model_digest: str = ""


class Engine(Protocol):
    """Turns messages into text; stateless between calls."""

    name: str

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, *, cancelled: threading.Event | None = None
    ) -> Iterator[str | Generation]:
        """Yield text pieces as they are decoded, then one `Generation` with the whole text.

        A piece may be empty: the engine has nothing yet, and the caller may look whether to go on.

        Raises:
            DataError: the newest question does not fit the context, or images and placeholders disagree.
            EngineError: the engine failed.
        """
        ...

    def generate(self, batch: Sequence[Sequence[Message]], sampling: Sampling) -> list[Generation]:
        """Answer several conversations at once, in order."""
        ...

"""The language model's own chat requests: OpenAI's schema without dialogue, studies or experts."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from serving.wire import MOST_TOKENS, Completing
from vilam3.dialogue.messages import Message, Sampling
from vilam3.services.content import from_parts
from vilam3.services.engine import MODEL

MOST_PRIORITY, MOST_SALT = 100, 200


class ReplyRequest(Completing):
    """One reply of the language model; ``<image>`` stands in the prompt where a picture stands among the parts.

    ``priority`` (a lower one is begun earlier) and ``cache_salt`` (whose memory of prompts may be used) are vLLM's.
    """

    model: str = MODEL
    min_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = None
    priority: Annotated[int, Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY)] = 0
    cache_salt: Annotated[str, Field(max_length=MOST_SALT)] = ""

    def conversation(self) -> list[Message]:
        """The messages for the engine.

        Raises:
            DataError: a picture cannot be used.
        """
        return [
            from_parts(message.role, [part.model_dump() for part in message.parts()], where=f"message {number}")
            for number, message in enumerate(self.messages, start=1)
            if not message.instructs
        ]

    def sampling(self) -> Sampling:
        """How to decode."""
        given = super().sampling()
        least = given.min_new_tokens if self.min_tokens is None else self.min_tokens
        return replace(given, min_new_tokens=least, scope=self.cache_salt)

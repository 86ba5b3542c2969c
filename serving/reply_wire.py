"""The language model's own chat requests: OpenAI's schema without dialogue, studies or experts."""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from serving.wire import MOST_TOKENS, Closed, Completing
from vilam3.dialogue.messages import Message, Sampling
from vilam3.services.content import from_parts
from vilam3.services.engine import MODEL

MOST_PRIORITY, MOST_SALT = 100, 200
MOST_STOPS, LONGEST_STOP, LONGEST_PATTERN = 16, 200, 2000
Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]


class Structure(Closed):
    """vLLM's field for guided decoding, as far as it is served here."""

    regex: Annotated[str, Field(min_length=1, max_length=LONGEST_PATTERN)]


class ReplyRequest(Completing):
    """One reply of the language model; ``<image>`` stands in the prompt where a picture stands among the parts.

    ``priority`` (a lower one is begun earlier), ``cache_salt`` (whose memory of prompts may be used),
    ``structured_outputs`` and ``include_stop_str_in_output`` are vLLM's; a stop text always stays in the reply, so that
    a trigger keeps its closing.
    """

    model: str = MODEL
    min_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = None
    priority: Annotated[int, Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY)] = 0
    cache_salt: Annotated[str, Field(max_length=MOST_SALT)] = ""
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    include_stop_str_in_output: Literal[True] = True
    structured_outputs: Structure | None = None

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

    def sampling(self, *, tenant: str = "") -> Sampling:
        """How to decode.

        Args:
            tenant: Who asks, by its key; nobody gets at what another one's prompts have left.
        """
        given = super().sampling()
        least = given.min_new_tokens if self.min_tokens is None else self.min_tokens
        return replace(
            given,
            min_new_tokens=least,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            pattern=None if self.structured_outputs is None else self.structured_outputs.regex,
            scope=f"{tenant}/{self.cache_salt}",
        )

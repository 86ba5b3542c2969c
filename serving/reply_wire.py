"""The language model's own chat requests: OpenAI's schema without dialogue, studies or experts."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from serving.wire import MOST_MESSAGES, ChatMessage, Closed, PlainFormat, StreamOptions
from vilam3.dialogue.messages import Message, Sampling
from vilam3.services.content import from_parts
from vilam3.services.engine import MODEL


class ReplyRequest(Closed):
    """A chat completion request; ``<image>`` stands in the prompt where a picture stands among the parts."""

    model: str = MODEL
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=4096)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None

    n: Literal[1] | None = None
    stop: None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    logprobs: Literal[False] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    response_format: PlainFormat | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None

    @model_validator(mode="after")
    def _end_with_a_question(self) -> "ReplyRequest":
        if self.messages[-1].role != "user":
            raise ValueError("messages: the last one must be the user's, there is nothing to answer")
        return self

    def conversation(self) -> list[Message]:
        """The messages for the engine.

        Raises:
            DataError: a picture cannot be used.
        """
        return [
            from_parts(message.role, [part.model_dump() for part in message.parts()], where=f"message {number}")
            for number, message in enumerate(self.messages, start=1)
            if message.role not in {"system", "developer"}
        ]

    def sampling(self) -> Sampling:
        """How to decode."""
        plain = Sampling()
        system = [
            "".join(part.text for part in message.parts() if part.type == "text")
            for message in self.messages
            if message.role in {"system", "developer"}
        ]
        return Sampling(
            temperature=plain.temperature if self.temperature is None else self.temperature,
            top_p=plain.top_p if self.top_p is None else self.top_p,
            max_new_tokens=self.max_completion_tokens or self.max_tokens or plain.max_new_tokens,
            min_new_tokens=plain.min_new_tokens if self.min_tokens is None else self.min_tokens,
            seed=self.seed,
            system_prompt="\n".join(system) if system else None,
        )

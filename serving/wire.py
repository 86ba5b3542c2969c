"""What comes in and goes out: OpenAI's chat schema with our extras, checked at the door.

A request is closed: a field that is neither OpenAI's nor ours is an error, so that a misspelt ``slice_index`` does not
silently ask about another slice. OpenAI's fields that would change the answer and that we do not serve accept their
neutral value only; those that do not (``user``, ``metadata``, ...) are taken and ignored. ``store`` and
``service_tier`` mean what they mean there: keep the answer, and go before others.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vilam3.data.sample import Modality
from vilam3.dialogue.messages import Sampling
from vilam3.experts.protocol import Point
from vilam3.services.findings import MOST_POINTS
from vilam3.sources.schemes import is_elsewhere

MODEL_NAME = "vilam3"
STUDY_SCHEME = "study://"
MOST_ROUNDS = 8
MOST_MESSAGES = 200
MOST_CHARACTERS = 100_000
MOST_TOKENS = 4096
LONGEST_TASK = 100
Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]


class Closed(BaseModel):
    """Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(Closed):
    """Some text; ``study://<id>`` in it names an uploaded study."""

    type: Literal["text"]
    text: Text


class ImageUrl(Closed):
    """Where an image is: a data URL, ``study://<id>``, or elsewhere: ``https://``, ``s3://``, ``dicomweb://``."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Closed):
    """An image or study."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """One message; what clients echo back of our own answers (``expert_calls``, ``refusal``, ...) is ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part] | None = None

    def parts(self) -> list[TextPart | ImagePart]:
        """The content as parts."""
        if isinstance(self.content, str):
            return [TextPart(type="text", text=self.content)]
        return list(self.content or [])

    @property
    def instructs(self) -> bool:
        """Whether it tells the model how to answer, and is not part of the conversation."""
        return self.role in {"system", "developer"}

    def text(self, *, between: str = "") -> str:
        """The text of its parts."""
        return between.join(part.text for part in self.parts() if isinstance(part, TextPart))


class StreamOptions(Closed):
    """How to stream."""

    include_usage: bool = False
    include_obfuscation: bool = False


class PlainFormat(Closed):
    """The only response format."""

    type: Literal["text"]


class Completing(Closed):
    """What every chat completion request has, of a dialogue or of one reply: OpenAI's own fields."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None

    n: Literal[1] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    logprobs: Literal[False] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    response_format: PlainFormat | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    task: Annotated[str, Field(max_length=LONGEST_TASK)] = ""

    @model_validator(mode="after")
    def _end_with_a_question(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError("messages: the last one must be the user's, there is nothing to answer")
        return self

    @property
    def asks_to_go_first(self) -> bool:
        """Whether the caller calls it urgent; whether that counts, its key decides."""
        return self.service_tier == "priority"

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def spoken(self) -> list[ChatMessage]:
        """The conversation, without what instructs the model."""
        return [message for message in self.messages if not message.instructs]

    def sampling(self) -> Sampling:
        """How to decode."""
        plain = Sampling()
        return Sampling(
            temperature=plain.temperature if self.temperature is None else self.temperature,
            top_p=plain.top_p if self.top_p is None else self.top_p,
            max_new_tokens=self.max_completion_tokens or self.max_tokens or plain.max_new_tokens,
            seed=self.seed,
            system_prompt=self._system_prompt(),
            task=self.task,
        )

    def _system_prompt(self) -> str | None:
        """What the instructing messages say; None without any."""
        said = [message.text() for message in self.messages if message.instructs]
        return "\n".join(said) if said else None


class ChatRequest(Completing):
    """A chat completion request: one question of a dialogue."""

    model: str = MODEL_NAME
    stop: None = None
    slice_index: Annotated[int, Field(ge=0)] | None = None
    scope: Literal["slice", "volume"] = "slice"
    modality: Modality | None = None
    experts: bool = True
    several: bool = False
    max_rounds: Annotated[int, Field(ge=0, le=MOST_ROUNDS)] = 4
    points: Annotated[tuple[Point, ...], Field(max_length=MOST_POINTS)] = ()

    store: bool | None = None
    safety_identifier: str | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _look_at_one_thing(self) -> Self:
        if self.scope == "volume" and self.slice_index is not None:
            raise ValueError("scope: a question about the volume has no slice_index; leave one of the two out")
        return self

    @property
    def names_images_elsewhere(self) -> bool:
        """Whether images must be fetched before it can be answered."""
        parts = (part for message in self.messages for part in message.parts())
        return any(isinstance(part, ImagePart) and is_elsewhere(part.image_url.url) for part in parts)

    @property
    def keeps(self) -> bool:
        """Whether the answer and what it was about may be kept, so that it can be looked up and asked again."""
        return self.store is not False

    def _system_prompt(self) -> str | None:
        """As said; an empty one leaves the model its own, since many clients always send one."""
        return (super()._system_prompt() or "").strip() or None


class Usage(Closed):
    """Tokens, image positions included, summed over the rounds of the dialogue."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class StudyInfo(Closed):
    """What is known of an uploaded study; `volumes` has the MR sequence of each, empty names without one."""

    id: str
    object: Literal["study"] = "study"
    reference: str
    modality: Modality
    num_slices: int
    num_views: int
    volumes: list[str] = []
    series: str
    warnings: list[str]
    created: int


class StudyElsewhere(Closed):
    """Images to fetch and keep as one study."""

    urls: Annotated[list[str], Field(min_length=1, max_length=16)]
    modality: Modality | None = None


class Instance(Closed):
    """One question of KServe's V1 protocol."""

    question: Text
    study: str | None = None
    slice_index: Annotated[int, Field(ge=0)] | None = None
    modality: Modality | None = None
    experts: bool = True
    task: Annotated[str, Field(max_length=LONGEST_TASK)] = ""

    def as_chat(self) -> ChatRequest:
        """The same question as a chat request."""
        parts: list[TextPart | ImagePart] = [TextPart(type="text", text=self.question)]
        if self.study is not None:
            url = self.study if ":" in self.study else STUDY_SCHEME + self.study
            parts.insert(0, ImagePart(type="image_url", image_url=ImageUrl(url=url)))
        return ChatRequest(
            messages=[ChatMessage(role="user", content=parts)],
            slice_index=self.slice_index,
            modality=self.modality,
            experts=self.experts,
            task=self.task,
        )


class Instances(BaseModel):
    """The body of KServe's V1 ``:predict``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    instances: Annotated[list[Instance], Field(min_length=1, max_length=16)]

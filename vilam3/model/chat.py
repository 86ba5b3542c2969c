"""Conversations to token ids: templates, training labels, and prompts that fit the context.

Template strings are facts kept byte for byte in ``templates.toml``. Sources: NVlabs/VILA 355fda9 llava/conversation.py
(strings and assembly), llava/data/dataset.py (whitespace around images in training); for ``qwen2`` at b760c34
llava/utils/tokenizer.py, which keeps whitespace as written but for the ends of messages.
"""

import functools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal, cast

from PIL import Image

from vilam3.data.sample import IMAGE_TOKEN, Turn
from vilam3.dialogue.messages import Message, squash
from vilam3.errors import CheckpointError, DataError
from vilam3.model.config import IGNORED_LABEL, IMAGE_TOKEN_ID, TemplateName, template_name
from vilam3.model.tokenizer import PieceTokenizer

Speaker = Literal["user", "assistant"]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One conversation style; the fields are explained in ``templates.toml``."""

    name: TemplateName
    style: Literal["two", "llama_3", "mpt", "chatml", "plain"]
    system_prefix: str
    system: str
    user: str
    assistant: str
    sep: str
    sep2: str
    cue: str
    demo_cue: bool
    stops: tuple[str, ...]
    jinja: str = ""

    @property
    def gap(self) -> str:
        """What stands behind every message and is never learnt."""
        return "\n" if self.style == "chatml" else ""

    def stop_ids(self, tokenizer: PieceTokenizer) -> frozenset[int]:
        """Every token that ends a reply.

        Raises:
            CheckpointError: the tokenizer does not hold this template's end tokens.
        """
        ids = {tokenizer.eos_id}
        for stop in self.stops:
            index = tokenizer.token_id(stop)
            if index is None:
                raise CheckpointError(
                    f"template {self.name}: its end token {stop} is not in the tokenizer; choose this model's template"
                )
            ids.add(index)
        return frozenset(ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A conversation as one text; `answers` are the spans of assistant text with their end token."""

    text: str
    answers: tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A training sample; `labels` are the ids to learn and -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """A prompt that fits.

    Attributes:
        text: As rendered.
        input_ids: With -200 at each image.
        images: Those that are still in the prompt, in order.
        num_embedded: Length after image expansion.
        num_dropped: Messages left out at the beginning.
    """

    text: str
    input_ids: list[int]
    images: tuple[Image.Image, ...]
    num_embedded: int
    num_dropped: int = 0


@functools.cache
def template(name: str) -> Template:
    """The template of that name; ``vicuna_v1`` is ``v1``.

    Raises:
        CheckpointError: there is no such template.
    """
    key = template_name(name)
    tables = tomllib.loads(resources.files("vilam3.model").joinpath("templates.toml").read_text(encoding="utf-8"))
    table = tables["v1" if key == "vicuna_v1" else key]
    return Template(name=key, **{**table, "stops": tuple(table["stops"])})


def render(
    messages: Sequence[tuple[Speaker, str]], style: Template, *, cue: bool, system_prompt: str | None = None
) -> Rendered:
    """Write a conversation as one text.

    Args:
        messages: Speaker and text, in order.
        style: The template.
        cue: Whether the assistant is to speak next.
        system_prompt: Replaces the system text; an empty one leaves the system out, markers and all.
    """
    text = _system(style, system_prompt)
    if style.style != "plain":
        text += style.sep + style.gap
    answers: list[Span] = []
    last = len(messages) - 1 + (1 if cue else 0)
    for index, (speaker, spoken) in enumerate(messages):
        said = spoken.strip() if style.style == "chatml" else spoken
        text += _role(style, speaker)
        if not said and style.style != "chatml":  # the published assembly writes a bare role for an empty message
            text += ":" if style.style == "two" else ""
            continue
        text += ":" if style.style == "two" else ""
        start = len(text)  # the blank after the colon is the assistant's first token, where it is a token of its own
        text += " " if style.style == "two" else ""
        text += said + _separator(style, index, last)
        if speaker == "assistant":
            answers.append((start, len(text)))
        text += style.gap
    return Rendered(text=text + (style.cue if cue else ""), answers=tuple(answers))


def _role(style: Template, speaker: Speaker) -> str:
    return style.user if speaker == "user" else style.assistant


def _system(style: Template, system_prompt: str | None) -> str:
    if system_prompt is None:
        return style.system_prefix + style.system
    is_bare = not system_prompt and style.style != "chatml"  # which keeps the markers around nothing
    if is_bare or (system_prompt and system_prompt.startswith(style.system_prefix)):
        return system_prompt
    return style.system_prefix + system_prompt


def _separator(style: Template, index: int, last: int) -> str:
    if style.style == "two":
        return style.sep if index % 2 == 0 else style.sep2
    if style.style == "llama_3":
        return style.sep if index < last else style.sep2
    return style.sep


def normalise_turns(turns: Sequence[Turn], *, has_images: bool) -> list[Turn]:
    """Whitespace around ``<image>`` as the published training has it: one blank before, one newline after.

    Turns without an image are left alone; where a sample has images but no place for them, one is put in front.
    """
    turns = list(turns)
    if has_images and turns and not any(IMAGE_TOKEN in turn.text for turn in turns):
        turns[0] = Turn(speaker=turns[0].speaker, text=f"{IMAGE_TOKEN}\n{turns[0].text}")
    return [Turn(speaker=turn.speaker, text=_normalised(turn.text)) for turn in turns]


def _normalised(text: str) -> str:
    if IMAGE_TOKEN not in text:
        return text
    *before, tail = (part.strip() for part in text.split(IMAGE_TOKEN))
    joined = f"{IMAGE_TOKEN}\n".join([*(part + " " for part in before), tail]).strip()
    return joined + "\n" if joined.endswith(IMAGE_TOKEN) else joined


def encode_training(
    turns: Sequence[Turn],
    tokenizer: PieceTokenizer,
    style: str | Template,
    *,
    max_tokens: int,
    tokens_per_image: int,
    normalise: bool = True,
    system_prompt: str | None = None,
) -> Encoded:
    """Tokenize a training conversation with labels on the assistant's text and its end token.

    Args:
        turns: Human and gpt in turn.
        tokenizer: Of the model.
        style: Template or its name.
        max_tokens: Longest sequence after image expansion; the end is cut, as the published collator does, but never
            inside an image.
        tokens_per_image: Positions one image takes.
        normalise: Apply the training whitespace around images; the demo's wording keeps it as it is, and so does the
            published training of NVILA (``qwen2``).
        system_prompt: Replaces the template's system text.

    Raises:
        DataError: the conversation is empty or `plain` is given more than one exchange.
    """
    style = template(style) if isinstance(style, str) else style
    if not turns:
        raise DataError("sample: has no turns; a training sample needs a human and a gpt turn")
    is_normal = normalise and style.style != "chatml"
    said = normalise_turns(turns, has_images=False) if is_normal else list(turns)
    rendered = _render_plain(said) if style.style == "plain" else _render_turns(said, style, system_prompt)
    pieces = tokenizer.encode_pieces(rendered.text)
    labels = [
        index if index != IMAGE_TOKEN_ID and _is_answer(span, rendered.answers) else IGNORED_LABEL
        for index, span in zip(pieces.input_ids, pieces.spans, strict=True)
    ]
    kept = _fitting(pieces.input_ids, max_tokens=max_tokens, tokens_per_image=tokens_per_image)
    return Encoded(input_ids=pieces.input_ids[:kept], labels=labels[:kept])


def _render_turns(turns: Sequence[Turn], style: Template, system_prompt: str | None) -> Rendered:
    speakers: dict[str, Speaker] = {"human": "user", "gpt": "assistant"}
    messages = [(speakers[turn.speaker], turn.text) for turn in turns]
    return render(messages, style, cue=False, system_prompt=system_prompt)


def _render_plain(turns: Sequence[Turn]) -> Rendered:
    """Alignment captions: images, caption, newline; the human's words are left out."""
    if [turn.speaker for turn in turns] != ["human", "gpt"]:
        raise DataError(
            f"sample: template plain takes one human and one gpt turn, found {len(turns)}; use another template"
        )
    places = IMAGE_TOKEN * turns[0].text.count(IMAGE_TOKEN)
    text = places + turns[1].text + template("plain").sep
    return Rendered(text=text, answers=((len(places), len(text)),))


def _is_answer(span: Span, answers: Sequence[Span]) -> bool:
    """A token belongs to an answer when it covers any of it; byte pieces of one character may be empty spans."""
    begin, end = span
    return any(begin < stop and (end > start or begin == end >= start) for start, stop in answers)


def _fitting(input_ids: Sequence[int], *, max_tokens: int, tokens_per_image: int) -> int:
    length = 0
    for count, index in enumerate(input_ids):
        length += tokens_per_image if index == IMAGE_TOKEN_ID else 1
        if length > max_tokens:
            return count
    return len(input_ids)


def embedded_length(input_ids: Sequence[int], tokens_per_image: int) -> int:
    """Positions the ids take after image expansion."""
    return len(input_ids) + sum(index == IMAGE_TOKEN_ID for index in input_ids) * (tokens_per_image - 1)


def assemble(
    messages: Sequence[Message],
    tokenizer: PieceTokenizer,
    style: str | Template,
    *,
    max_tokens: int,
    tokens_per_image: int,
    system_prompt: str | None = None,
    cue: bool = True,
) -> Prompt:
    """Build the prompt for the next reply; where it is too long, the oldest whole exchanges go, with their images.

    The system text and the newest question always stay.

    Args:
        messages: The conversation, the newest question last.
        tokenizer: Of the model.
        style: Template or its name.
        max_tokens: Longest prompt after image expansion.
        tokens_per_image: Positions one image takes.
        system_prompt: Replaces the template's system text.
        cue: Whether to add the assistant's cue.

    Raises:
        DataError: the newest question alone does not fit, or images and placeholders disagree.
    """
    style = template(style) if isinstance(style, str) else style
    messages = squash(messages)
    _check(messages)
    starts = [index for index, message in enumerate(messages) if message.role == "user"]
    length = 0
    for start in dict.fromkeys([0, *starts]):
        kept = messages[start:]
        spoken = [(cast("Speaker", message.role), message.text) for message in kept]
        text = render(spoken, style, cue=cue, system_prompt=system_prompt).text
        input_ids = tokenizer.encode_with_images(text)
        length = embedded_length(input_ids, tokens_per_image)
        if length <= max_tokens:
            images = tuple(image for message in kept for image in message.images)
            return Prompt(text=text, input_ids=input_ids, images=images, num_embedded=length, num_dropped=start)
    raise DataError(
        f"newest question: takes {length} tokens with its images and the system text, the context holds {max_tokens}; "
        "shorten it or send fewer images"
    )


def encode_chat(
    messages: Sequence[Message],
    tokenizer: PieceTokenizer,
    style: str | Template,
    *,
    max_tokens: int,
    tokens_per_image: int,
    system_prompt: str | None = None,
) -> list[int]:
    """Token ids of `assemble`, for callers that need no images."""
    return assemble(
        messages,
        tokenizer,
        style,
        max_tokens=max_tokens,
        tokens_per_image=tokens_per_image,
        system_prompt=system_prompt,
    ).input_ids


def _check(messages: Sequence[Message]) -> None:
    if not messages or messages[-1].role != "user":
        raise DataError("conversation: must end with a user message; add the question to be answered")
    for number, message in enumerate(messages, start=1):
        places = message.text.count(IMAGE_TOKEN)
        if places != len(message.images):
            raise DataError(
                f"message {number}: has {places} {IMAGE_TOKEN} places but {len(message.images)} images; they must agree"
            )

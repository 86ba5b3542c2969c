"""Messages of a dialogue as OpenAI's content parts, and back, to the letter and the pixel.

Text and pictures alternate as they do in the prompt: each ``<image>`` becomes a part of its own, and parts are joined
without anything between them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from vilam3.data.sample import IMAGE_TOKEN
from vilam3.dialogue.messages import Message, squash
from vilam3.errors import DataError
from vilam3.services.pictures import from_data_url, to_data_url


def to_wire(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as a chat request carries them.

    Raises:
        DataError: pictures and placeholders disagree.
    """
    return [
        {"role": message.role, "content": _parts(message, number)}
        for number, message in enumerate(squash(messages), start=1)
    ]


def _parts(message: Message, number: int) -> str | list[dict[str, Any]]:
    texts = message.text.split(IMAGE_TOKEN)
    if len(texts) - 1 != len(message.images):
        raise DataError(
            f"message {number}: {len(message.images)} pictures for {len(texts) - 1} places {IMAGE_TOKEN}; "
            "the numbers must be equal"
        )
    if not message.images:
        return message.text
    parts: list[dict[str, Any]] = []
    for text, picture in zip(texts, (*message.images, None), strict=True):
        if text:
            parts.append({"type": "text", "text": text})
        if picture is not None:
            parts.append({"type": "image_url", "image_url": {"url": to_data_url(picture)}})
    return parts


def from_parts(role: str, parts: Iterable[Mapping[str, Any]], *, where: str) -> Message:
    """One message of a chat request.

    Args:
        role: ``user`` or ``assistant``.
        parts: Each with ``text`` or ``image_url``.
        where: How a refusal names the message.

    Raises:
        DataError: a picture cannot be used.
    """
    text = ""
    pictures: list[Image.Image] = []
    for part in parts:
        if part["type"] == "text":
            text += part["text"]
            continue
        text += IMAGE_TOKEN
        pictures.append(from_data_url(part["image_url"]["url"], where=f"{where}, image {len(pictures) + 1}"))
    return Message(role="assistant" if role == "assistant" else "user", text=text, images=tuple(pictures))

"""What an answer was made with, enough to ask for it again: in the answer itself, and as a record that can be replayed.

The record holds the request with its studies by reference, never pictures. It is kept beside the answer, for as long,
unless the request says ``store: false``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from serving.wire import STUDY_SCHEME, ChatMessage, ChatRequest, ImagePart, ImageUrl, TextPart
from vilam3 import __version__
from vilam3.data.sample import Dialect
from vilam3.data.study import Study
from vilam3.dialogue.messages import Sampling

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The language model that answered."""

    name: str
    digest: str
    engine: str
    dialect: Dialect


def made_with(
    model: Model,
    study: Study | None,
    *,
    slice_index: int | None,
    sampling: Sampling,
    rounds: int,
    ending: str,
    expert_calls: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """The provenance of an answer.

    Args:
        model: Who answered.
        study: What was looked at.
        slice_index: The slice that was seen.
        sampling: How it was decoded.
        rounds: Replies of the model.
        ending: Why the dialogue ended.
        expert_calls: Records of the calls.
    """
    return {
        "model": model.name,
        "model_digest": model.digest,
        "engine": model.engine,
        "dialect": model.dialect,
        "study_digest": None if study is None else study.digest,
        "series": None if study is None else study.series,
        "slice_index": slice_index,
        "sampling": {name: value for name, value in asdict(sampling).items() if name != "scope"},
        "experts": _experts(expert_calls),
        "rounds": rounds,
        "ending": ending,
        "version": __version__,
    }


def _experts(calls: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each expert that found something, with what found it, and whether it was found earlier."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for call in calls:
        origin = call.get("provenance")
        if origin:
            known = found.setdefault(
                (origin["expert"], origin["version"], origin["weights_digest"]),
                {"calls": 0, "cached": 0, **{key: origin[key] for key in ("expert", "version", "weights_digest")}},
            )
            known["calls"] += 1
            known["cached"] += bool(call.get("cached"))
    return list(found.values())


class Record(BaseModel):
    """What is needed to ask again.

    Attributes:
        format: Of this record.
        answer: Id of the answer.
        request: As it came in, its studies by reference.
        replies: Every reply of the model, in order; the answer itself is kept beside this record.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: int = FORMAT
    answer: str
    request: ChatRequest
    replies: tuple[str, ...]


def by_reference(request: ChatRequest, studies: Sequence[Study | None]) -> ChatRequest:
    """The request with every study that came within it named by its reference.

    Args:
        request: As it came in.
        studies: Of each message that is not an instruction, with reference; None where it has none.
    """
    found = iter(studies)
    messages = [message if message.instructs else _named(message, next(found)) for message in request.messages]
    return request.model_copy(update={"messages": messages})


def _named(message: ChatMessage, study: Study | None) -> ChatMessage:
    parts = message.parts()
    inline = [part for part in parts if isinstance(part, ImagePart) and not part.image_url.url.startswith(STUDY_SCHEME)]
    if not inline or study is None:
        return message
    url = STUDY_SCHEME + study.reference.rpartition("/")[2]
    texts: list[TextPart | ImagePart] = [part for part in parts if part not in inline]
    named = ImagePart(type="image_url", image_url=ImageUrl(url=url))
    return message.model_copy(update={"content": [named, *texts]})

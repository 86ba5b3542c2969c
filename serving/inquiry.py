"""From a chat request to a question: finds the studies it names, reads the images it carries, keeps the history."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from serving.wire import MODEL_NAME, STUDY_SCHEME, ChatMessage, ChatRequest, ImagePart
from vilam3.consultant import Consultant, with_modality
from vilam3.data.sample import IMAGE_TOKEN, Modality
from vilam3.data.study import Study
from vilam3.dialogue.loop import Asking
from vilam3.dialogue.messages import Message, Sampling
from vilam3.dialogue.prompts import opening
from vilam3.errors import DataError, NotFoundError

_STUDY_IN_TEXT = re.compile(rf"{STUDY_SCHEME}([A-Za-z0-9_-]+)")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inquiry:
    """A chat request, ready to be driven.

    Attributes:
        request: As it came in.
        asking: The newest question with its history.
        study: The newest study of the conversation, the one experts look at; None without images.
        studies: Of each message that is no instruction; None where it shows none.
        sampling: How to decode.
    """

    request: ChatRequest
    asking: Asking
    study: Study | None
    studies: tuple[Study | None, ...]
    sampling: Sampling

    @property
    def seen_slice(self) -> int | None:
        """The slice that is looked at; None without slices."""
        if self.study is None or not self.study.volumes:
            return None
        wanted = self.request.slice_index
        return self.study.num_slices // 2 if wanted is None else wanted


class Studies(Protocol):
    """Where studies are looked up."""

    def get(self, tenant: str, study_id: str) -> Study:
        """The study of a tenant, or `NotFoundError`."""
        ...

    def attached(self, urls: Sequence[str], *, modality: Modality | None = None) -> Study:
        """The study that data URLs carry, or addresses elsewhere name."""
        ...


def prepare(
    request: ChatRequest, *, tenant: str, studies: Studies, consultant: Consultant, named: Study | None = None
) -> Inquiry:
    """Read everything the request refers to; blocking.

    Args:
        request: As it came in.
        tenant: Whose studies are meant.
        studies: Where they are.
        consultant: Words the question.
        named: The newest message's study, where the request names it beside its messages.

    Raises:
        DataError: an image cannot be used.
        NotFoundError: no such study for this tenant, or no such model.
        UnsupportedError: an image is somewhere this server does not go.
    """
    if request.model != MODEL_NAME:
        raise NotFoundError(f"model {request.model!r}: not served here; use {MODEL_NAME!r}")
    *earlier, newest = request.spoken()
    history: list[Message] = []
    seen: list[Study | None] = []
    for message in earlier:
        text, found = _read(message, request, tenant=tenant, studies=studies)
        seen.append(found)
        history.append(_past(message, text, found, request, consultant))
    text, found = _read(newest, request, tenant=tenant, studies=studies)
    if found is None and named is not None:
        found = with_modality(named, request.modality, question=text)
    seen.append(found)
    study = next((one for one in reversed(seen) if one is not None), None)
    asking = consultant.asking(
        _bare(text) if found is None else text,
        found,
        slice_index=request.slice_index,
        with_experts=request.experts,
        history=tuple(history),
        max_rounds=request.max_rounds,
    )
    if found is None and study is not None:  # a follow-up: experts are told of the modality, the images stay above
        asking = replace(asking, modality=study.modality)
    return Inquiry(
        request=request,
        asking=asking,
        study=study,
        studies=tuple(seen),
        sampling=request.sampling(),
    )


def _past(
    message: ChatMessage, text: str, study: Study | None, request: ChatRequest, consultant: Consultant
) -> Message:
    """An earlier message, worded and with images as it was when it was the newest."""
    if message.role == "assistant":
        return Message(role="assistant", text=_bare(text))
    asking = consultant.asking(
        text if study else _bare(text), study, slice_index=request.slice_index, with_experts=request.experts
    )
    worded = opening(
        asking.text,
        modality=asking.modality,
        num_images=len(asking.images),
        cards=asking.cards,
        dialect=asking.dialect,
    )
    return Message(role="user", text=worded, images=asking.images)


def _read(message: ChatMessage, request: ChatRequest, *, tenant: str, studies: Studies) -> tuple[str, Study | None]:
    """The message's text without references, and its study."""
    text = message.text(between="\n").strip()
    urls = [part.image_url.url for part in message.parts() if isinstance(part, ImagePart)]
    handles = _STUDY_IN_TEXT.findall(text) + [url for url in urls if url.startswith(STUDY_SCHEME)]
    handles = list(dict.fromkeys(handle.removeprefix(STUDY_SCHEME) for handle in handles))
    inline = [url for url in urls if not url.startswith(STUDY_SCHEME)]
    text = re.sub(r"[ \t]{2,}", " ", _STUDY_IN_TEXT.sub("", text)).strip() if handles else text
    if len(handles) > 1 or (handles and inline):
        raise DataError("messages: one message names several studies; ask about one study at a time")
    study = None
    if handles:
        study = with_modality(studies.get(tenant, handles[0]), request.modality, question=text)
    elif inline:
        study = with_modality(studies.attached(inline, modality=request.modality), request.modality, question=text)
    if study is not None and len(study.volumes) <= 1 and text.count(IMAGE_TOKEN) > 1:
        raise DataError(
            f"messages: {IMAGE_TOKEN} stands more than once in the text, for one image; write it once or not"
        )
    return text, study


def _bare(text: str) -> str:
    """Without places for images, where there are none to put."""
    return text.replace(IMAGE_TOKEN, "")

"""Asks for a kept answer again: of the server that gave it, or of another model in this process.

What another model is shown is what the first one was shown: the request is prepared by the same code, and its studies
come from the server as they were kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import ValidationError

from serving.attachments import read_attachments
from serving.inquiry import prepare
from serving.provenance import FORMAT, Model, Record, made_with
from vilam3.consultant import Consultant
from vilam3.data.limits import Limits
from vilam3.data.packed import unpack
from vilam3.data.sample import Modality
from vilam3.data.study import Study
from vilam3.dialogue.drive import answer
from vilam3.dialogue.events import Event, ReplyFinished
from vilam3.dialogue.record import expert_call, notes
from vilam3.errors import DataError
from vilam3.remote import Server
from vilam3.results.whole import on_whole
from vilam3.sources.images import Sources

LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An answer as its server keeps it."""

    answer: Mapping[str, Any]
    record: Record

    @classmethod
    def of(cls, server: Server, answer_id: str) -> Self:
        """Fetch it.

        Raises:
            NotFoundError: the server keeps none of that id for this caller.
            DataError: it is of another version of this program.
        """
        told = server.json(f"/v1/results/{answer_id}/replay.json")
        try:
            record = Record.model_validate(told)
        except ValidationError as error:
            raise DataError(
                f"answer {answer_id}: its record is not understood; is the server of this version?"
            ) from error
        if record.format != FORMAT:
            raise DataError(f"answer {answer_id}: kept in format {record.format}, this program reads {FORMAT}")
        return cls(answer=server.json(f"/v1/results/{answer_id}"), record=record)

    @property
    def is_repeatable(self) -> bool:
        """Whether the same model says the same again: decoded greedily, or with a seed."""
        sampling = self.record.request.sampling()
        return sampling.temperature == 0 or sampling.seed is not None


def on_server(server: Server, kept: Kept) -> dict[str, Any]:
    """The answer of the server as it is now.

    Raises:
        NotFoundError: a study of the question has been forgotten.
    """
    request = kept.record.request.model_copy(update={"stream": False, "stream_options": None})
    return server.complete(request.model_dump(mode="json", exclude_defaults=True))


def here(server: Server, kept: Kept, consultant: Consultant) -> dict[str, Any]:
    """The answer of another model and its experts, in this process.

    Raises:
        NotFoundError: a study of the question has been forgotten.
    """
    request = kept.record.request
    inquiry = prepare(request, tenant=LOCAL, studies=_Fetched(server), consultant=consultant)
    ask = consultant.ask_on(inquiry.study, slice_index=request.slice_index, points=request.points)
    if inquiry.study is not None and request.scope == "volume":
        ask = on_whole(ask, inquiry.study, dialect=consultant.dialect)
    replies: list[ReplyFinished] = []

    def hear(event: Event) -> None:
        if isinstance(event, ReplyFinished):
            replies.append(event)

    transcript = answer(
        inquiry.asking,
        consultant.engine,
        ask,
        consultant.grammar(several=request.several),
        sampling=inquiry.sampling,
        on_event=hear,
    )
    calls = [expert_call(outcome) for outcome in transcript.outcomes]
    name, digest = consultant.model_name, consultant.model_digest
    model = Model(name=name, digest=digest, engine=consultant.engine.name, dialect=consultant.dialect)
    return {
        "answer": transcript.answer,
        "notes": notes(transcript, max_rounds=inquiry.asking.max_rounds),
        "expert_calls": calls,
        "provenance": made_with(
            model,
            inquiry.study,
            slice_index=inquiry.seen_slice,
            sampling=inquiry.sampling,
            rounds=len(replies),
            ending=transcript.ending,
            expert_calls=calls,
        ),
    }


@dataclass(slots=True)
class _Fetched:
    """Studies of the server, each fetched once; see `serving.inquiry.Studies`."""

    server: Server
    _at_hand: dict[str, Study] = field(default_factory=dict)

    def get(self, tenant: str, study_id: str) -> Study:
        """The study of this caller on the server."""
        del tenant
        if study_id not in self._at_hand:
            content = self.server.fetch(f"/v1/studies/{study_id}/study.zip")
            self._at_hand[study_id] = unpack(content, limits=Limits())
        return self._at_hand[study_id]

    def attached(self, urls: Sequence[str], *, modality: Modality | None = None) -> Study:
        """The images that the question carried, or names elsewhere, as far as this process may fetch them."""
        return read_attachments(urls, sources=Sources.from_environment(), limits=Limits(), modality=modality)

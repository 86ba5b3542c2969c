"""Holds the dialogues: a thread each, experts in threads of their own, events to the event loop, results to the store.

Health probes stay fast because nothing here blocks the event loop, and nothing outlives its reader: when the caller
leaves, generation stops at the next token and no further expert starts.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from serving import cards, metrics
from serving.completion import Answered, ExpertEnded, completion
from serving.flow import Flow
from serving.inquiry import Inquiry, prepare
from serving.lanes import Lane, Places
from serving.presence import Gone
from serving.results import ResultStore
from serving.studies import StudyStore
from serving.tenants import Tenants
from serving.wire import MODEL_NAME, ChatRequest, Usage
from vilam3.consultant import Consultant
from vilam3.data.study import Study
from vilam3.dialogue.bounds import Bounds
from vilam3.dialogue.drive import answer
from vilam3.dialogue.events import Event, ExpertFinished, ExpertStarted, ReplyFinished
from vilam3.dialogue.loop import Transcript
from vilam3.dialogue.record import expert_call, notes
from vilam3.errors import ArtifactError, VilaM3Error
from vilam3.objects import FolderStore
from vilam3.shelf import Shelf

T = TypeVar("T")
DEADLINE_S = 120.0
PER_TENANT = 16

log = logging.getLogger(__name__)


Progress = Event | ExpertEnded | Answered


@dataclass(slots=True, kw_only=True)
class Service:
    """Everything the routes need; lives as long as the server.

    Attributes:
        consult: Gives the model and experts as they are now; those of other services come and go.
        tenants: Who may ask.
        studies: What is asked about.
        results: What answers leave behind.
        deadline_s: Longest time for one answer.
        places: Answers at a time for one tenant.
        dialogues: Where answers are made.
        readers: Where files are read.
        experts: Where experts are run or waited for.
        started: Unix time.
    """

    consult: Callable[[], Consultant]
    tenants: Tenants
    studies: StudyStore
    results: ResultStore
    deadline_s: float = DEADLINE_S
    places: Places = field(default_factory=lambda: Places(PER_TENANT))
    dialogues: Lane = field(default_factory=lambda: Lane("dialogues", workers=2, waiting=16))
    readers: Lane = field(default_factory=lambda: Lane("readers", workers=2, waiting=32))
    experts: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="experts"))
    started: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def create(cls, consultant: Consultant, *, tenants: Tenants, work: Path) -> "Service":
        """A service of one process that keeps its files below `work`."""
        objects = FolderStore(work)
        return cls(
            consult=lambda: consultant,
            tenants=tenants,
            studies=StudyStore(Shelf(objects)),
            results=ResultStore(objects),
        )

    @property
    def consultant(self) -> Consultant:
        """The model and experts as they are now."""
        return self.consult()

    @property
    def model(self) -> str:
        """The name of the one model."""
        return MODEL_NAME

    def card(self) -> dict[str, Any]:
        """What is said of it."""
        return cards.card_of(self.model, created=self.started, digest=self.consultant.model_digest)

    async def read(self, work: Callable[[], T]) -> T:
        """Run blocking reading off the event loop."""
        return await self.readers.run(work)

    async def inquire(self, request: ChatRequest, *, tenant: str) -> Inquiry:
        """Read what the request refers to."""
        return await self.read(
            lambda: prepare(request, tenant=tenant, studies=self.studies, consultant=self.consultant)
        )

    def begin(self, inquiry: Inquiry, *, tenant: str) -> "Running":
        """Queue a dialogue.

        Raises:
            BusyError: too many wait, of this tenant or of all.
        """
        return Running(self, inquiry, tenant=tenant)

    def close(self) -> None:
        """Let threads end."""
        self.dialogues.close()
        self.readers.close()
        self.experts.shutdown(wait=False, cancel_futures=True)


class Running:
    """One dialogue in flight."""

    def __init__(self, service: Service, inquiry: Inquiry, *, tenant: str) -> None:
        """Queue it at once; `Service.begin` is the way to call this."""
        self.answer_id = service.results.new_id()
        self.created = int(time.time())
        self._service = service
        self._inquiry = inquiry
        self._tenant = tenant
        self._deadline = time.monotonic() + service.deadline_s
        place = service.places.take(tenant)
        try:
            self._flow: Flow[Progress, Answered] = Flow(
                service.dialogues, self._hold, on_end=place, is_degraded=lambda answered: bool(answered.notes)
            )
        except BaseException:
            place()
            raise

    def cancel(self) -> None:
        """Stop at the next token, or never begin; harmless when it has ended."""
        self._flow.cancel()

    async def progress(self, *, gone: Gone) -> AsyncIterator[Progress]:
        """What happens, as it happens; `Answered` comes last. Leaving early cancels the dialogue.

        Args:
            gone: Whether the caller has left.

        Raises:
            VilaM3Error: the dialogue failed.
        """
        try:
            async for event in self._flow.events(gone=gone):
                if event is not None:
                    yield event
            yield self._flow.result()
        finally:
            self.cancel()

    async def answered(self, *, gone: Gone) -> Answered:
        """Wait for the whole answer."""
        return await self._flow.outcome(gone=gone)

    def _hold(self, flow: Flow[Progress, Answered]) -> Answered:
        """The dialogue itself; runs in a thread of the lane."""
        service, inquiry = self._service, self._inquiry
        consultant = service.consultant
        needs_reference = getattr(consultant.experts, "needs_reference", False) and bool(inquiry.asking.cards)
        with service.studies.lent(self._tenant, inquiry.study, needed=needs_reference) as study:
            recorder = _Recorder(self, study, tell=flow.tell)
            transcript = answer(
                inquiry.asking,
                consultant.engine,
                consultant.ask_on(study, slice_index=inquiry.slice_index),
                consultant.grammar(several=inquiry.several),
                sampling=inquiry.sampling,
                on_event=recorder.on_event,
                bounds=Bounds(deadline=self._deadline, cancelled=flow.cancelled, pool=service.experts),
            )
        return self._conclude(transcript, recorder, consultant)

    def keep_pictures(self, event: ExpertFinished, study: Study | None) -> dict[str, Any]:
        """Store what an expert drew."""
        result = event.outcome.result
        if result is None or study is None:
            return {}
        results = self._service.results
        return dict(results.keep_pictures(self._tenant, self.answer_id, event.index, result, study=study))

    def _conclude(self, transcript: Transcript, recorder: "_Recorder", consultant: Consultant) -> Answered:
        said = notes(transcript, max_rounds=self._inquiry.asking.max_rounds, deadline_s=self._service.deadline_s)
        study = self._inquiry.study
        answered = Answered(
            answer_id=self.answer_id,
            created=self.created,
            text=transcript.answer,
            notes=[*said, *recorder.notes],
            finish_reason="length" if recorder.was_cut or transcript.ending in {"rounds", "deadline"} else "stop",
            expert_calls=recorder.calls(transcript),
            usage=recorder.usage(),
            provenance=self._provenance(transcript, recorder, consultant),
            warnings=[] if study is None else list(study.warnings),
        )
        if transcript.ending != "cancelled":
            self._keep(answered)
        return answered

    def _provenance(self, transcript: Transcript, recorder: "_Recorder", consultant: Consultant) -> dict[str, Any]:
        study = self._inquiry.study
        return {
            "model": consultant.model_name,
            "model_digest": recorder.model_digest or consultant.model_digest,
            "engine": consultant.engine.name,
            "dialect": consultant.dialect,
            "study_digest": None if study is None else study.digest,
            "series": None if study is None else study.series,
            "slice_index": self._inquiry.seen_slice,
            "rounds": recorder.num_replies,
            "ending": transcript.ending,
        }

    def _keep(self, answered: Answered) -> None:
        try:
            self._service.results.keep_answer(self._tenant, self.answer_id, completion(answered))
        except (ArtifactError, OSError) as error:
            log.warning("answer not kept: %s", type(error).__name__)  # it is given all the same


class _Recorder:
    """Listens to a dialogue: keeps overlays, counts tokens and seconds, passes events on."""

    def __init__(self, running: Running, study: Study | None, *, tell: Callable[[Progress], None]) -> None:
        self._running = running
        self._study = study
        self._tell = tell
        self._records: dict[int, dict[str, Any]] = {}
        self._replies: list[ReplyFinished] = []
        self.notes: list[str] = []

    @property
    def num_replies(self) -> int:
        return len(self._replies)

    @property
    def was_cut(self) -> bool:
        return bool(self._replies) and self._replies[-1].generation.finish_reason == "length"

    @property
    def model_digest(self) -> str:
        """Of the weights that gave the last reply, if the engine says so."""
        return self._replies[-1].generation.model_digest if self._replies else ""

    def on_event(self, event: Event) -> None:
        if isinstance(event, ReplyFinished):
            self._replies.append(event)
        elif isinstance(event, ExpertStarted):
            metrics.expert_begins(event.call.expert)
        if not isinstance(event, ExpertFinished):
            self._tell(event)
            return
        metrics.expert_ends(event.outcome.call.expert, event.seconds)
        record = expert_call(event.outcome, round_index=event.round_index, seconds=round(event.seconds, 3))
        try:
            record |= self._running.keep_pictures(event, self._study)
        except (VilaM3Error, OSError):
            self.notes.append(f"The pictures of {event.outcome.call.expert} could not be stored on the server.")
        self._records[id(event.outcome)] = record
        self._tell(ExpertEnded(index=event.index, record=record))

    def calls(self, transcript: Transcript) -> list[dict[str, Any]]:
        """One record for each outcome; a trigger that named no expert has an outcome but was never run."""
        return [self._records.get(id(outcome)) or expert_call(outcome) for outcome in transcript.outcomes]

    def usage(self) -> Usage:
        prompt = sum(reply.generation.prompt_tokens for reply in self._replies)
        completed = sum(reply.generation.completion_tokens for reply in self._replies)
        return Usage(prompt_tokens=prompt, completion_tokens=completed, total_tokens=prompt + completed)

"""Holds the dialogues: a thread each, experts in threads of their own, events to the event loop, results to the store.

Health probes stay fast because nothing here blocks the event loop, and nothing outlives its reader: when the caller
leaves, generation stops at the next token, experts stop at their next look, and no further one starts.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from serving import cards, metrics
from serving.completion import Answered, completion
from serving.exports import Exports
from serving.flow import Flow
from serving.inquiry import Inquiry, prepare
from serving.lanes import Lane, Places
from serving.presence import Gone
from serving.provenance import Model, Record, by_reference, made_with
from serving.recorder import Progress, Recorder
from serving.results import ResultStore
from serving.studies import StudyStore
from serving.tenants import Tenants
from serving.wire import MODEL_NAME, ChatRequest
from vilam3 import tracing
from vilam3.consultant import Consultant
from vilam3.data.study import Study
from vilam3.dialogue.bounds import SIDE_BY_SIDE, Bounds
from vilam3.dialogue.drive import answer
from vilam3.dialogue.events import ExpertFinished
from vilam3.dialogue.loop import Transcript
from vilam3.dialogue.panel import Ask
from vilam3.dialogue.record import notes
from vilam3.errors import ArtifactError
from vilam3.objects import FolderStore
from vilam3.results.whole import on_whole
from vilam3.services.memory import FindingMemory, Looking
from vilam3.shelf import Shelf, tenant_folder

T = TypeVar("T")
PER_TENANT = 16
URGENT = -1  # its priority in the engine's queue

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one answer may take.

    Attributes:
        deadline_s: All of it.
        expert_seconds: All its experts together.
        side_by_side: Experts of one reply at a time.
        per_tenant: Answers at a time for one tenant.
    """

    deadline_s: float = 300.0
    expert_seconds: float = 600.0
    side_by_side: int = SIDE_BY_SIDE
    per_tenant: int = PER_TENANT


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On which terms answers are given.

    Attributes:
        budget: What one may take.
        remembers: Whether what experts have found is given again to the same question.
    """

    budget: Budget = field(default_factory=Budget)
    remembers: bool = True


@dataclass(slots=True, kw_only=True)
class Service:
    """Everything the routes need; lives as long as the server.

    Attributes:
        consult: Gives the model and experts as they are now; those of other services come and go.
        tenants: Who may ask.
        studies: What is asked about.
        results: What answers leave behind.
        memory: What experts have found; None to ask them each time.
        budget: What one answer may take.
        places: Answers at a time for one tenant.
        dialogues: Where answers are made.
        readers: Where files are read.
        fetchers: Where images elsewhere are waited for, so that a slow host holds up nobody's uploads.
        experts: Where experts are run or waited for.
        started: Unix time.
    """

    consult: Callable[[], Consultant]
    tenants: Tenants
    studies: StudyStore
    results: ResultStore
    memory: FindingMemory | None = None
    budget: Budget = field(default_factory=Budget)
    places: Places = field(default_factory=lambda: Places(PER_TENANT))
    dialogues: Lane = field(default_factory=lambda: Lane("dialogues", workers=2, waiting=16, urgent=4))
    readers: Lane = field(default_factory=lambda: Lane("readers", workers=2, waiting=32))
    fetchers: Lane = field(default_factory=lambda: Lane("fetchers", workers=8, waiting=32))
    experts: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="experts"))
    started: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def create(cls, consultant: Consultant, *, tenants: Tenants, work: Path, terms: Terms | None = None) -> "Service":
        """A service of one process that keeps its files below `work`."""
        terms = terms or Terms()
        objects = FolderStore(work)
        return cls(
            consult=lambda: consultant,
            tenants=tenants,
            studies=StudyStore(Shelf(objects)),
            results=ResultStore(objects),
            memory=FindingMemory(objects) if terms.remembers else None,
            budget=terms.budget,
            places=Places(terms.budget.per_tenant),
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
        digest, stows = self.consultant.model_digest, self.exports.pacs is not None
        return cards.card_of(self.model, created=self.started, digest=digest, stows=stows)

    async def read(self, work: Callable[[], T]) -> T:
        """Run blocking reading off the event loop."""
        return await self.readers.run(work)

    async def fetch(self, work: Callable[[], T]) -> T:
        """Run work that waits for other hosts off the event loop."""
        return await self.fetchers.run(work)

    @property
    def exports(self) -> Exports:
        """Results in the forms that other systems take."""
        return Exports(results=self.results, pacs=self.studies.sources.pacs)

    async def inquire(self, request: ChatRequest, *, tenant: str) -> Inquiry:
        """Read what the request refers to."""
        run = self.fetch if request.names_images_elsewhere else self.read
        return await run(lambda: prepare(request, tenant=tenant, studies=self.studies, consultant=self.consultant))

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
        self.fetchers.close()
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
        self._deadline = time.monotonic() + service.budget.deadline_s
        self._goes_first = inquiry.request.asks_to_go_first and service.tenants.may_go_first(tenant)
        place = service.places.take(tenant)
        try:
            self._flow: Flow[Progress, Answered] = Flow(
                service.dialogues,
                self._hold,
                on_end=place,
                is_degraded=lambda answered: bool(answered.notes),
                is_urgent=self._goes_first,
            )
        except BaseException:
            place()
            raise

    def cancel(self) -> None:
        """Stop at the next token, or never begin; harmless when it has ended."""
        self._flow.cancel()

    async def progress(self, *, gone: Gone) -> AsyncIterator[list[Progress]]:
        """What happens, as it happens, some of it at a time; `Answered` comes last. Leaving early cancels the dialogue.

        Args:
            gone: Whether the caller has left.

        Raises:
            VilaM3Error: the dialogue failed.
        """
        try:
            async for batch in self._flow.batches(gone=gone):
                if batch:
                    yield batch
            yield [self._flow.result()]
        finally:
            self.cancel()

    async def answered(self, *, gone: Gone) -> Answered:
        """Wait for the whole answer."""
        return await self._flow.outcome(gone=gone)

    @property
    def service_tier(self) -> str:
        """OpenAI's word for whether it went before others."""
        return "priority" if self._goes_first else "default"

    def _hold(self, flow: Flow[Progress, Answered]) -> Answered:
        """The dialogue itself; runs in a thread of the lane."""
        service, inquiry = self._service, self._inquiry
        consultant = service.consultant
        is_needed = getattr(consultant.experts, "needs_reference", False) and bool(inquiry.asking.cards)
        keeps = inquiry.request.keeps
        with (
            tracing.span("dialogue", experts=bool(inquiry.asking.cards), tier=self.service_tier),
            service.studies.lent(self._tenant, inquiry.study, is_needed=is_needed, keeps=keeps) as study,
        ):
            recorder = Recorder(keep_pictures=lambda event: self._keep_pictures(event, study), tell=flow.tell)
            transcript = answer(
                inquiry.asking,
                consultant.engine,
                self._ask(consultant, study),
                consultant.grammar(several=inquiry.request.several),
                sampling=replace(inquiry.sampling, scope=tenant_folder(self._tenant)),
                on_event=recorder.hear,
                bounds=Bounds(
                    deadline=self._deadline,
                    cancelled=flow.cancelled,
                    pool=service.experts,
                    expert_seconds=service.budget.expert_seconds,
                    side_by_side=service.budget.side_by_side,
                    priority=URGENT if self._goes_first else 0,
                ),
            )
            return self._conclude(transcript, recorder, consultant)

    def _ask(self, consultant: Consultant, study: Study | None) -> Ask:
        """What runs an expert, by way of what is remembered where this answer may be kept."""
        request, memory = self._inquiry.request, self._service.memory
        ask = consultant.ask_on(study, slice_index=request.slice_index, points=request.points)
        if memory is not None and study is not None and consultant.experts is not None and request.keeps:
            ask = memory.through(ask, self._looking(study, consultant), model_of=consultant.experts.model_of)
        if study is None or request.scope != "volume":
            return ask
        return on_whole(ask, study, dialect=consultant.dialect, load=self._service.studies.shelf.objects.get)

    def _looking(self, study: Study, consultant: Consultant) -> Looking:
        request = self._inquiry.request
        return Looking(
            tenant=self._tenant,
            study=study,
            slice_index=self._inquiry.seen_slice,
            points=request.points,
            dialect=consultant.dialect,
        )

    def _keep_pictures(self, event: ExpertFinished, study: Study | None) -> Mapping[str, Any]:
        """Store what an expert drew."""
        result = event.outcome.result
        if result is None or study is None:
            return {}
        service, number = self._service, event.index
        source = service.studies.shelf.source(study)
        return service.results.keep_pictures(self._tenant, self.answer_id, number, result, study=study, source=source)

    def _conclude(self, transcript: Transcript, recorder: Recorder, consultant: Consultant) -> Answered:
        inquiry, budget = self._inquiry, self._service.budget
        metrics.ROUNDS_TAKEN.observe(len(recorder.replies))
        calls = recorder.calls(transcript)
        said = notes(transcript, max_rounds=inquiry.asking.max_rounds, deadline_s=budget.deadline_s)
        answered = Answered(
            answer_id=self.answer_id,
            created=self.created,
            text=transcript.answer,
            notes=[*said, *recorder.notes],
            finish_reason="length" if recorder.was_cut or transcript.ending in {"rounds", "deadline"} else "stop",
            expert_calls=calls,
            usage=recorder.usage(),
            provenance=made_with(
                _model(consultant, recorder.model_digest),
                inquiry.study,
                slice_index=inquiry.seen_slice,
                sampling=inquiry.sampling,
                rounds=len(recorder.replies),
                ending=transcript.ending,
                expert_calls=calls,
            ),
            warnings=[] if inquiry.study is None else list(inquiry.study.warnings),
            service_tier=self.service_tier,
        )
        if transcript.ending != "cancelled" and inquiry.request.keeps:
            self._keep(answered, recorder.replies)
        return answered

    def _keep(self, answered: Answered, replies: tuple[str, ...]) -> None:
        """Keep the answer, and how to ask for it again; when that fails it is given all the same."""
        service, inquiry = self._service, self._inquiry
        try:
            kept = [study and service.studies.keep(self._tenant, study) for study in inquiry.studies]
            request = by_reference(inquiry.request, kept)
            record = Record(answer=self.answer_id, request=request, replies=replies)
            service.results.keep_answer(self._tenant, self.answer_id, completion(answered), record=record)
        except (ArtifactError, OSError) as error:
            log.warning("answer not kept: %s", type(error).__name__)


def _model(consultant: Consultant, digest: str) -> Model:
    return Model(
        name=consultant.model_name,
        digest=digest or consultant.model_digest,
        engine=consultant.engine.name,
        dialect=consultant.dialect,
    )

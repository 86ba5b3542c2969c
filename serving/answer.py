"""Holds the dialogues: a thread each, experts in threads of their own, events to the event loop, results to the store.

Health probes stay fast because nothing here blocks the event loop, and nothing outlives its reader: when the caller
leaves, generation stops at the next token and no further expert starts.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from serving.completion import Answered, ExpertEnded, completion
from serving.inquiry import Inquiry, prepare
from serving.lanes import Lane
from serving.refusals import GoneError
from serving.results import ResultStore
from serving.studies import StudyStore
from serving.tenants import Tenants
from serving.wire import ChatRequest, Usage
from vilam3.consultant import Consultant
from vilam3.dialogue.drive import Bounds, Event, ExpertFinished, ReplyFinished, answer
from vilam3.dialogue.loop import Transcript
from vilam3.dialogue.record import expert_call, notes
from vilam3.errors import ArtifactError, VilaM3Error

T = TypeVar("T")
DEADLINE_S = 120.0
GONE_EVERY_S = 0.1  # how often it is asked whether the caller has left

log = logging.getLogger(__name__)
Gone = Callable[[], Awaitable[bool]]


Progress = Event | ExpertEnded | Answered


@dataclass(slots=True, kw_only=True)
class Service:
    """Everything the routes need; lives as long as the server."""

    consultant: Consultant
    tenants: Tenants
    studies: StudyStore
    results: ResultStore
    deadline_s: float = DEADLINE_S
    dialogues: Lane = field(default_factory=lambda: Lane("dialogues", workers=2, waiting=16))
    readers: Lane = field(default_factory=lambda: Lane("readers", workers=2, waiting=32))
    experts: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="experts"))
    started: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def create(cls, consultant: Consultant, *, tenants: Tenants, work: Path) -> "Service":
        """A service that keeps its files below `work`."""
        return cls(
            consultant=consultant,
            tenants=tenants,
            studies=StudyStore(work / "studies"),
            results=ResultStore(work / "results"),
        )

    async def read(self, work: Callable[[], T]) -> T:
        """Run blocking reading off the event loop."""
        return await self.readers.run(work)

    async def inquire(self, request: ChatRequest, *, tenant: str) -> Inquiry:
        """Read what the request refers to."""
        work = partial(prepare, request, tenant=tenant, studies=self.studies, consultant=self.consultant)
        return await self.read(work)

    def begin(self, inquiry: Inquiry, *, tenant: str) -> "Running":
        """Queue a dialogue.

        Raises:
            BusyError: too many wait.
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
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Progress | None] = asyncio.Queue()
        self._cancelled = threading.Event()
        self._recorder = _Recorder(service.results, inquiry, answer_id=self.answer_id, tell=self._tell)
        self._deadline = time.monotonic() + service.deadline_s
        self._work = service.dialogues.submit(self._hold)
        service.results.open(self.answer_id, tenant)
        self._work.add_done_callback(lambda _: self._tell(None))

    def cancel(self) -> None:
        """Stop at the next token, or never begin; harmless when it has ended."""
        self._cancelled.set()
        self._work.cancel()

    async def progress(self, *, gone: Gone) -> AsyncIterator[Progress]:
        """What happens, as it happens; `Answered` comes last. Leaving early cancels the dialogue.

        Args:
            gone: Whether the caller has left.

        Raises:
            VilaM3Error: the dialogue failed.
        """
        try:
            while (event := await self._next(gone)) is not None:
                yield event
            if self._work.cancelled():
                raise GoneError("the caller left before the answer was begun")
            yield self._work.result()
        finally:
            self.cancel()

    async def answered(self, *, gone: Gone) -> Answered:
        """Wait for the whole answer."""
        async for event in self.progress(gone=gone):
            if isinstance(event, Answered):
                return event
        raise AssertionError("unreachable: the answer comes last")

    async def _next(self, gone: Gone) -> Progress | None:
        while True:
            if not self._events.empty():
                return self._events.get_nowait()
            try:
                return await asyncio.wait_for(self._events.get(), GONE_EVERY_S)
            except TimeoutError:
                if not self._cancelled.is_set() and await gone():
                    self.cancel()

    def _tell(self, event: Progress | None) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has closed: the server is gone, and its callers
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def _hold(self) -> Answered:
        """The dialogue itself; runs in a thread of the lane."""
        service, inquiry = self._service, self._inquiry
        transcript = answer(
            inquiry.asking,
            service.consultant.engine,
            service.consultant.ask_on(inquiry.study, slice_index=inquiry.slice_index),
            service.consultant.grammar(several=inquiry.several),
            sampling=inquiry.sampling,
            on_event=self._recorder.on_event,
            bounds=Bounds(deadline=self._deadline, cancelled=self._cancelled, pool=service.experts),
        )
        return self._conclude(transcript)

    def _conclude(self, transcript: Transcript) -> Answered:
        recorder = self._recorder
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
            provenance=self._provenance(transcript),
            warnings=[] if study is None else list(study.warnings),
        )
        if transcript.ending != "cancelled":
            self._keep(answered)
        return answered

    def _provenance(self, transcript: Transcript) -> dict[str, Any]:
        consultant, study = self._service.consultant, self._inquiry.study
        return {
            "model": consultant.model_name,
            "model_digest": consultant.model_digest,
            "engine": consultant.engine.name,
            "dialect": consultant.dialect,
            "study_digest": None if study is None else study.digest,
            "series": None if study is None else study.series,
            "slice_index": self._inquiry.seen_slice,
            "rounds": self._recorder.num_replies,
            "ending": transcript.ending,
        }

    def _keep(self, answered: Answered) -> None:
        try:
            self._service.results.keep_answer(self.answer_id, completion(answered))
        except (ArtifactError, OSError) as error:
            log.warning("answer not kept: %s", type(error).__name__)  # it is given all the same


class _Recorder:
    """Listens to a dialogue: keeps overlays, counts tokens, passes events on."""

    def __init__(
        self, results: ResultStore, inquiry: Inquiry, *, answer_id: str, tell: Callable[[Progress], None]
    ) -> None:
        self._results = results
        self._inquiry = inquiry
        self._answer_id = answer_id
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

    def on_event(self, event: Event) -> None:
        if isinstance(event, ReplyFinished):
            self._replies.append(event)
        if not isinstance(event, ExpertFinished):
            self._tell(event)
            return
        record = expert_call(event.outcome, round_index=event.round_index, seconds=round(event.seconds, 3))
        result, study = event.outcome.result, self._inquiry.study
        if result is not None and study is not None:
            try:
                record |= self._results.keep_pictures(self._answer_id, event.index, result, study=study)
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

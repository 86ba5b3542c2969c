"""One expert as a service of its own: asked by reference to a study in the shared store, one question at a time.

Its work runs in a thread, so that probes stay fast; what waits is bounded, and whoever leaves gives the place back: at
once before their turn, between two steps of the expert's work after it has begun. The expert is loaded and has run once
before it is called ready.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import FastAPI

from serving import cards, guard, metrics, refusals
from serving.flow import Flow
from serving.lanes import Lane
from serving.presence import gone
from serving.tenants import Tenants
from vilam3 import tracing
from vilam3.consultant import with_modality
from vilam3.data.sample import Dialect
from vilam3.data.study import Study
from vilam3.errors import DataError, VilaM3Error
from vilam3.experts.protocol import ExpertCall, ExpertResult, Point, Watch, unwatched
from vilam3.experts.registry import until
from vilam3.services.findings import Consultation, Finding
from vilam3.shelf import Shelf

WAITING = 16
TOLD_EVERY_S = 0.25
WARMING = "the expert is loading its weights"

log = logging.getLogger(__name__)


class OneExpert(Protocol):
    """A registry that holds one expert."""

    def describe(self) -> list[dict[str, Any]]:
        """What is said of it."""
        ...

    def run(
        self,
        call: ExpertCall,
        study: Study,
        *,
        slice_index: int | None = None,
        points: Sequence[Point] = (),
        watch: Watch = unwatched,
    ) -> ExpertResult:
        """Run it."""
        ...

    def warm_up(self) -> None:
        """Load it and run it once."""
        ...


class Paced:
    """Passes on how far the work is, but not more often than anybody reads."""

    def __init__(self, tell: Watch) -> None:
        """Tell `tell`."""
        self._tell = tell
        self._told_at = float("-inf")

    def __call__(self, fraction: float, /) -> None:
        """See `vilam3.experts.protocol.Watch`."""
        now = time.monotonic()
        if now - self._told_at >= TOLD_EVERY_S:
            self._told_at = now
            self._tell(fraction)


@dataclass(slots=True, kw_only=True)
class ExpertService:
    """Everything these routes need.

    Attributes:
        name: As in triggers.
        opened: Opens it for a wording; costs nothing until it runs.
        shelf: Where studies are looked up and segmentations left.
        tenants: Who may ask.
        calls: Where it runs.
        started: Unix time.
        lacking: Why it is not ready, or nothing.
    """

    name: str
    opened: Callable[[Dialect], OneExpert]
    shelf: Shelf
    tenants: Tenants
    calls: Lane = field(default_factory=lambda: Lane("calls", workers=1, waiting=WAITING))
    started: int = field(default_factory=lambda: int(time.time()))
    lacking: str = field(init=False, default="")
    _by_dialect: dict[Dialect, OneExpert] = field(init=False, default_factory=dict)

    def registry(self, dialect: Dialect = "demo") -> OneExpert:
        """The expert for a wording; opened once, so that it keeps what it loads."""
        if dialect not in self._by_dialect:
            self._by_dialect[dialect] = self.opened(dialect)
        return self._by_dialect[dialect]

    @property
    def model(self) -> str:
        """Its name as a KServe model."""
        return self.name.lower()

    def card(self) -> dict[str, Any]:
        """What is said of it."""
        (told,) = self.registry().describe()
        return cards.card_of(self.model, created=self.started, expert=told["name"], **told)

    def warm_up(self) -> None:
        """Load the expert and let it run once; blocking. It is not ready until then."""
        self.lacking = WARMING
        try:
            self.registry().warm_up()
        except VilaM3Error as error:
            self.lacking = f"the expert cannot be used: {error}"
            log.error("warm-up failed: %s", error)  # noqa: TRY400 - it tells of weights, and says what to do
        except Exception as error:  # an expert is foreign code; that it never becomes ready must not go unsaid
            self.lacking = f"the expert cannot be used: it failed unexpectedly ({type(error).__name__})"
            log.exception("warm-up failed")
        else:
            self.lacking = ""

    def begin_warm_up(self) -> None:
        """Warm up in a thread of its own, so that probes are answered meanwhile."""
        self.lacking = WARMING
        threading.Thread(target=self.warm_up, name="warm-up", daemon=True).start()

    def begin(self, work: Callable[[Watch], Any]) -> Flow[float, Any]:
        """Queue one piece of work, which is told by its watch that its caller has left.

        Raises:
            BusyError: as many wait as may.
        """
        metrics.expert_begins(self.name)
        began = time.monotonic()
        try:
            return Flow(
                self.calls,
                lambda flow: work(until(flow.cancelled, Paced(flow.tell))),
                on_end=lambda: metrics.expert_ends(self.name, time.monotonic() - began),
            )
        except BaseException:
            metrics.QUEUE_DEPTH.labels(self.name).dec()
            raise

    async def consult(self, asked: Consultation) -> Finding:
        """Answer one question.

        Raises:
            BusyError: as many wait as may.
            GoneError: the caller left before its turn.
            Cancelled: the caller left while it ran.
            ExpertError: the expert cannot serve it.
            NotFoundError: there is no such study.
        """
        finding: Finding = await self.begin(lambda watch: self.run(asked, watch=watch)).outcome(gone=gone())
        return finding

    def run(self, asked: Consultation, *, watch: Watch = unwatched) -> Finding:
        """The work itself; blocking."""
        watch(0.0)
        study = with_modality(self.shelf.get(asked.study), asked.modality, question="")
        if asked.study_digest and asked.study_digest != study.digest:
            raise DataError("study: the one of this reference is not the one that is meant; upload it again")
        call = ExpertCall(expert=self.name, argument=asked.argument)
        with tracing.span("run", expert=self.name):
            result = self.registry(asked.dialect).run(
                call, study, slice_index=asked.slice_index, points=asked.points, watch=watch
            )
        mask = None
        if result.mask is not None and study.volumes:
            mask = self.shelf.put_mask(study, result.mask)
        return Finding.of(result, mask=mask)

    def close(self) -> None:
        """Let threads end."""
        self.calls.close()


def install(app: FastAPI, service: ExpertService) -> None:
    """Put the routes on an application, before its own."""
    cards.install(app, service)
    refusals.install(app)
    guard.install(app)

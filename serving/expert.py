"""One expert as a service of its own: asked by reference to a study in the shared store, one question at a time.

Its work runs in a thread, so that probes stay fast; what waits is bounded, and whoever leaves before their turn gives
the place back.
"""

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
from vilam3.errors import DataError
from vilam3.experts.protocol import ExpertCall, ExpertResult, Point, Watch, unwatched
from vilam3.experts.registry import until
from vilam3.services.findings import Consultation, Finding
from vilam3.shelf import Shelf

WAITING = 16


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
    """

    name: str
    opened: Callable[[Dialect], OneExpert]
    shelf: Shelf
    tenants: Tenants
    calls: Lane = field(default_factory=lambda: Lane("calls", workers=1, waiting=WAITING))
    started: int = field(default_factory=lambda: int(time.time()))
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
                lambda flow: work(until(flow.cancelled)),
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

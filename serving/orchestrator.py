"""The public endpoint in front of other services: the language model and each expert behind an address of its own.

It holds no model, so it starts in a moment and many of it may run; what they share is the study store.
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from serving.answer import Service, Terms
from serving.lanes import Lane, Places
from serving.results import ResultStore
from serving.studies import StudyStore
from serving.tenants import Tenants
from vilam3.consultant import Consultant, Experts
from vilam3.data.sample import Dialect
from vilam3.dialogue.bounds import SIDE_BY_SIDE
from vilam3.dialogue.messages import Engine
from vilam3.errors import EngineError, VilaM3Error
from vilam3.objects import ObjectStore
from vilam3.services.engine import ModelCard
from vilam3.services.memory import FindingMemory
from vilam3.shelf import GIB, Bounds, Shelf

ANSWERS_AT_A_TIME, ANSWERS_WAITING, URGENT_WAITING = 64, 128, 32
READERS = 4  # as many may wait to be read as may wait for their answer: a burst is refused by one bound, not by two
LOOK_EVERY_S = 5.0
SWEEP_EVERY_S = 60.0
MOST_STUDIES, MOST_ANSWERS, MOST_BYTES = 20_000, 50_000, 2048 * GIB

log = logging.getLogger(__name__)


class KnownEngine(Engine, Protocol):
    """An engine elsewhere."""

    def card(self) -> ModelCard:
        """What it says of its model; may take a moment."""
        ...

    def close(self) -> None:
        """Drop the connections."""
        ...


class KnownExperts(Experts, Protocol):
    """Experts elsewhere."""

    def speaking(self, dialect: Dialect) -> Experts:
        """The same experts, asked for the wording that a language model was trained in."""
        ...


@dataclass(slots=True)
class Acquaintance:
    """Knows the language model's service: asks for its card again and again, in a thread, so that nobody waits."""

    engine: KnownEngine
    _card: ModelCard | None = field(init=False, default=None)
    _trouble: str = field(init=False, default="the language model has not answered yet")
    _left: threading.Event = field(init=False, default_factory=threading.Event)

    def begin(self) -> None:
        """Start to look."""
        threading.Thread(target=self._look, name="acquaintance", daemon=True).start()

    def close(self) -> None:
        """Stop to look."""
        self._left.set()
        self.engine.close()

    def card(self) -> ModelCard:
        """The newest card.

        Raises:
            EngineError: there has been none yet.
        """
        if self._card is None:
            raise EngineError(f"{self._trouble}; try again later")
        return self._card

    def lacking(self) -> str:
        """Why no request can be answered yet, or nothing; a model that was known may restart, which is waited for."""
        return "" if self._card is not None else self._trouble

    def _look(self) -> None:
        while not self._left.is_set():
            try:
                card = self.engine.card()
            except VilaM3Error as error:
                self._trouble = str(error)
            else:
                if card != self._card:
                    log.info("language model is there", extra={"digest": card.digest, "dialect": card.dialect})
                self._card = card
            self._left.wait(LOOK_EVERY_S if self._card else LOOK_EVERY_S / 10)


def service(
    known: Acquaintance,
    experts: KnownExperts | None,
    *,
    objects: ObjectStore,
    tenants: Tenants,
    terms: Terms,
) -> Service:
    """The service of the public routes on remote parts."""

    def consult() -> Consultant:
        card = known.card()
        asked = None if experts is None else experts.speaking(card.dialect)
        return Consultant(engine=known.engine, experts=asked, dialect=card.dialect, model_digest=card.digest)

    return Service(
        consult=consult,
        tenants=tenants,
        studies=StudyStore(
            Shelf(objects),
            bounds=Bounds(max_count=MOST_STUDIES, max_bytes=MOST_BYTES),
            sweep_every_s=SWEEP_EVERY_S,
        ),
        results=ResultStore(objects, bounds=Bounds(max_count=MOST_ANSWERS), sweep_every_s=SWEEP_EVERY_S),
        memory=FindingMemory(objects, sweep_every_s=SWEEP_EVERY_S) if terms.remembers else None,
        budget=terms.budget,
        places=Places(terms.budget.per_tenant),
        readers=Lane("readers", workers=READERS, waiting=ANSWERS_AT_A_TIME + ANSWERS_WAITING + URGENT_WAITING),
        dialogues=Lane("dialogues", workers=ANSWERS_AT_A_TIME, waiting=ANSWERS_WAITING, urgent=URGENT_WAITING),
        experts=ThreadPoolExecutor(ANSWERS_AT_A_TIME * SIDE_BY_SIDE, thread_name_prefix="experts"),
    )

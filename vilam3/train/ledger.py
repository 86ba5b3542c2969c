"""What the time of a stage went into, by cause, kept while it is trained so that it survives whoever is killed.

Each attempt at a stage has a record of its own beside the checkpoints. It is written again every moment, so that the
last sign of life of a killed attempt is in it; `vilam3.train.expense` adds the attempts up.
"""

import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from vilam3.errors import ArtifactError, NotFoundError
from vilam3.objects import ObjectStore

Activity = Literal["step", "data", "checkpoint", "validation", "saving", "startup", "other"]
ACTIVITIES: tuple[Activity, ...] = get_args(Activity)
FOLDER = "ledger"
MARKS = 4  # checkpoints that a later attempt may go on from: two that are kept, one being written, and the start
EVERY_S, EVERY_S_AFAR = 0.1, 10.0  # between signs of life, in a folder and in an object store
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What an attempt had spent when the state of a step was saved."""

    step: int
    spent_s: Mapping[str, float]
    energy_j: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at a stage, from its start to its last sign of life.

    Attributes:
        holder: Names what held the machines; attempts of one holder follow each other without letting them go.
        began_s: Wall clock.
        seen_s: Wall clock of the last sign of life.
        devices: Processes, an accelerator each where there are any.
        device: Kind of accelerator; empty where there is none.
        spent_s: By activity.
        energy_j: By activity, over all devices; empty where nothing is known of it.
        is_energy_measured: False where it is the power limit times the time.
        marks: Where a later attempt may have gone on, oldest first; the first is where this one went on itself.
    """

    holder: str
    began_s: float
    seen_s: float
    devices: int
    device: str
    spent_s: Mapping[str, float]
    energy_j: Mapping[str, float] = field(default_factory=dict)
    is_energy_measured: bool = False
    marks: tuple[Mark, ...] = ()

    @classmethod
    def from_json(cls, text: bytes) -> "Attempt":
        """As it was written."""
        values = json.loads(text)
        return cls(**{**values, "marks": tuple(Mark(**mark) for mark in values["marks"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What holds the devices of an attempt.

    Attributes:
        devices: Processes, an accelerator each where there are any.
        device: Kind of accelerator; empty where there is none.
        holder: See `Attempt`; empty: this attempt alone.
        began_s: Wall clock from when on they were held; None: now.
        is_energy_measured: See `Attempt`.
    """

    devices: int = 1
    device: str = ""
    holder: str = ""
    began_s: float | None = None
    is_energy_measured: bool = False


class Ledger:
    """Counts the time of the attempt that this process leads."""

    def __init__(self, store: ObjectStore | None, run: str, *, holding: Holding, every_s: float = EVERY_S) -> None:
        """Begin an attempt at `run`, whose records are in `store`; without one nothing is written."""
        self._store = store
        self._folder = f"{run}/{FOLDER}" if run else FOLDER
        self._holding = holding
        self._holder = holding.holder or uuid.uuid4().hex
        self._since = time.monotonic()
        self._wall_s = time.time()
        self._began_s = self._begin()
        self._key = f"{self._folder}/{self._began_s:017.3f}-{uuid.uuid4().hex[:8]}.json"
        self._activity: Activity = "startup"
        self._spent_s: dict[str, float] = {str(name): 0.0 for name in ACTIVITIES} | {
            "startup": self._wall_s - self._began_s
        }
        self._energy_j: dict[str, float] = {}
        self._energy_read: tuple[float, dict[str, float]] | None = None
        self._marks: list[Mark] = []
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._is_heard = True
        self._every_s = every_s
        self._thread = threading.Thread(target=self._write_now_and_then, name="ledger", daemon=True)
        if store is not None:
            self._write()
            self._thread.start()

    def _begin(self) -> float:
        """Not before an earlier attempt ended; a holder that tries again had its machines all along."""
        earlier = attempts(self._store, self._folder) if self._store is not None else []
        last_s = max((one.seen_s for one in earlier), default=0.0)
        began_s = self._holding.began_s
        if began_s is None or any(one.holder == self._holder for one in earlier):
            return self._wall_s
        return min(self._wall_s, max(began_s, last_s))

    @contextlib.contextmanager
    def spent(self, activity: Activity) -> Iterator[None]:
        """Count the time of the block as this; what is within it again is counted by itself."""
        before = self._turn(activity)
        try:
            yield
        finally:
            self._turn(before)

    def begun(self, step: int) -> None:
        """The first step comes now, from this one on."""
        self._turn("other")
        self.saved(step)

    def saved(self, step: int) -> None:
        """The state of this step is saved, or about to be: a later attempt may go on from it."""
        with self._lock:
            mark = Mark(step=step, spent_s=self._counted(), energy_j=dict(self._energy_j))
            self._marks = [*self._marks[:1], *(*self._marks[1:], mark)[-MARKS:]]

    def used(self, energy_j: float) -> None:
        """What all devices have used since the attempt began; it is shared out over what was done since last time."""
        with self._lock:
            counted = self._counted()
            before_j, before = self._energy_read or (0.0, dict.fromkeys(ACTIVITIES, 0.0))
            self._energy_read = (energy_j, counted)
            passed_s = sum(counted.values()) - sum(before.values())
            for activity in ACTIVITIES if passed_s > 0 else ():
                share = (counted[activity] - before[activity]) / passed_s
                self._energy_j[activity] = self._energy_j.get(activity, 0.0) + share * (energy_j - before_j)

    def attempts(self) -> list[Attempt]:
        """All so far, this one as it is now."""
        own = self._now()
        if self._store is None:
            return [own]
        earlier = [one for key, one in _read(self._store, self._folder) if key != self._key]
        return [*earlier, own]

    def close(self) -> None:
        """The attempt ends."""
        if not self._is_over.is_set() and self._store is not None:
            self._is_over.set()
            self._thread.join()
            self._write()

    def clear(self) -> None:
        """The stage is finished and its record has it all."""
        if self._store is not None:
            self._is_over.set()
            self._thread.join()
            with contextlib.suppress(ArtifactError):
                self._store.delete(self._folder)

    def _turn(self, activity: Activity) -> Activity:
        """What is done from now on; returns what was done until now."""
        with self._lock:
            self._spent_s = self._counted()
            self._since = time.monotonic()
            before, self._activity = self._activity, activity
            return before

    def _counted(self) -> dict[str, float]:
        return {
            **self._spent_s,
            self._activity: self._spent_s[self._activity] + time.monotonic() - self._since,
        }

    def _now(self) -> Attempt:
        with self._lock:
            counted = self._counted()
            return Attempt(
                holder=self._holder,
                began_s=self._began_s,
                seen_s=self._began_s + sum(counted.values()),
                devices=self._holding.devices,
                device=self._holding.device,
                spent_s=counted,
                energy_j=dict(self._energy_j),
                is_energy_measured=self._holding.is_energy_measured,
                marks=tuple(self._marks),
            )

    def _write_now_and_then(self) -> None:
        while not self._is_over.wait(self._every_s):
            self._write()

    def _write(self) -> None:
        """A store that is away costs a sign of life, never the training."""
        assert self._store is not None
        try:
            self._store.put(self._key, json.dumps(asdict(self._now())).encode())
        except ArtifactError as error:
            if self._is_heard:
                log.warning("the time spent could not be noted, and is tried again: %s", error)
            self._is_heard = False
        else:
            self._is_heard = True


def attempts(store: ObjectStore, folder: str) -> list[Attempt]:
    """Those at a run, oldest first; a record that is damaged is passed over."""
    return [one for _, one in _read(store, folder)]


def _read(store: ObjectStore, folder: str) -> list[tuple[str, Attempt]]:
    found: list[tuple[str, Attempt]] = []
    try:
        for entry in store.entries(folder):
            with contextlib.suppress(ValueError, KeyError, TypeError, NotFoundError):
                found.append((entry.key, Attempt.from_json(store.get(entry.key))))
    except ArtifactError as error:
        log.warning("the time that earlier attempts spent cannot be read: %s", error)
    return sorted(found, key=lambda one: one[1].began_s)

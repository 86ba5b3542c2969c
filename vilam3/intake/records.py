"""What the intake knows, in the store: what was asked and waits, which runs a key has had, and what is still running.

Everything is written again harmlessly; only who holds the turn (`vilam3.intake.turn`) writes runs.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TypeVar

from vilam3.errors import NotFoundError
from vilam3.intake.event import Digests, Event, Run
from vilam3.objects import ObjectStore
from vilam3.settings import Settings

ASKED, RUNS, OPEN, LATEST = "asked", "runs", "open", "latest"
T = TypeVar("T", bound=Settings)


class Asked(Settings):
    """An event that has no run yet."""

    event: Event
    """As it came."""
    digests: Digests
    """Of what its places held then."""
    attempt: int
    """Which run of its key it asks for, counted from 1."""
    at: datetime
    """When it was first asked."""


class Attempt(Settings):
    """One run of a key."""

    run: Run
    """As it was started."""
    at: datetime
    """When."""


class Record(Settings):
    """All runs of a key."""

    pipeline: str
    """That it runs."""
    attempts: tuple[Attempt, ...] = ()
    """One after another."""


class Opened(Settings):
    """A run that is not known to have ended."""

    pipeline: str
    """That it runs."""
    name: str
    """Of the run."""


class Latest(Settings):
    """The last start of a pipeline."""

    at: datetime
    """When."""


class Records:
    """Of one installation."""

    def __init__(self, store: ObjectStore) -> None:
        """Keep them in `store`, which belongs to the intake alone."""
        self._store = store

    def record(self, key: str) -> Record | None:
        """The runs of a key."""
        return self._read(f"{RUNS}/{key}", Record)

    def asked(self, key: str) -> Asked | None:
        """What waits under a key."""
        return self._read(f"{ASKED}/{key}", Asked)

    def latest(self, pipeline: str) -> datetime | None:
        """When a pipeline was last started."""
        found = self._read(f"{LATEST}/{pipeline}", Latest)
        return found.at if found else None

    def ask(self, key: str, asked: Asked) -> Asked:
        """Keep an event until it has its run; returns what is kept, which may be an earlier one."""
        if self._store.put_new(_name(f"{ASKED}/{key}"), asked.model_dump_json().encode()):
            return asked
        return self.asked(key) or asked

    def settle(self, key: str, record: Record) -> None:
        """Keep the runs of a key and forget what was asked, which goes last: a kill in between is made good."""
        last = record.attempts[-1]
        self._write(f"{RUNS}/{key}", record)
        self._write(f"{OPEN}/{last.run.name}", Opened(pipeline=record.pipeline, name=last.run.name))
        before = self.latest(record.pipeline)
        if before is None or before < last.at:
            self._write(f"{LATEST}/{record.pipeline}", Latest(at=last.at))
        self.forget(key)

    def forget(self, key: str) -> None:
        """What was asked under a key no longer waits."""
        self._store.delete(_name(f"{ASKED}/{key}"))

    def close(self, name: str) -> None:
        """A run has ended."""
        self._store.delete(_name(f"{OPEN}/{name}"))

    def opened(self, pipeline: str) -> list[str]:
        """Names of runs that are not known to have ended."""
        return [one.name for _, one in self._all(OPEN, Opened) if one.pipeline == pipeline]

    def waiting(self) -> list[tuple[str, Asked]]:
        """Keys and events that have no run yet, the oldest first."""
        return sorted(self._all(ASKED, Asked), key=lambda one: one[1].at)

    def _all(self, folder: str, kind: type[T]) -> Iterator[tuple[str, T]]:
        for entry in list(self._store.entries(folder)):
            stem = entry.key.removesuffix(".json")
            if (found := self._read(stem, kind)) is not None:
                yield stem.rpartition("/")[2], found

    def _read(self, stem: str, kind: type[T]) -> T | None:
        try:
            return kind.model_validate_json(self._store.get(_name(stem)))
        except NotFoundError:
            return None

    def _write(self, stem: str, value: Settings) -> None:
        self._store.put(_name(stem), value.model_dump_json().encode())


def now() -> datetime:
    """The time, as records have it."""
    return datetime.now(UTC)


def _name(stem: str) -> str:
    return f"{stem}.json"

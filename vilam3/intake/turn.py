"""One at a time among processes that share nothing but an object store: who holds the turn may start a run.

A turn is an object with the next number; whoever makes it holds it, and says when it is over. A holder that was killed
holds it no longer than its lease. Two things are not trusted:

- that a store makes an object only once. A server that looks first and writes then may say yes to two at the same time.
  So a taker waits a while, reads its object back, and has the turn only if it finds its own token; one whose own
  writing took longer than that while does not rely on it.
- clocks. A holder gives up by its own stopwatch at half of its lease; another takes over at the whole of it. Clocks may
  differ by as much as lies between.
"""

import contextlib
import random
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from vilam3.errors import BusyError, NotFoundError, SupersededError
from vilam3.objects import FolderStore, ObjectStore
from vilam3.settings import Settings

FOLDER = "turn"
DIGITS = 8
KEPT = 8  # older turns are removed by the holder
POLL_S = (0.1, 0.4)


class Ticket(Settings):
    """What a turn's object says."""

    token: str
    """Of the holder."""
    until_s: float
    """Unix time at which others may go on without it."""
    is_over: bool = False
    """The holder has ended it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long a turn may take.

    Attributes:
        lease_s: After so long others go on, whatever the holder does.
        settle_s: Longest time that a store takes to write a small object; 0 where making it is one step.
        patience_s: How long to wait for a turn.
    """

    lease_s: float = 120.0
    settle_s: float = 1.0
    patience_s: float = 20.0


class Held:
    """A turn that this process holds."""

    def __init__(self, *, until_s: float) -> None:
        """`until_s` is of the monotonic clock."""
        self._until_s = until_s

    def check(self) -> None:
        """Before what must not happen twice: is the turn surely ours still?

        Raises:
            SupersededError: it may be another's by now.
        """
        if time.monotonic() > self._until_s:
            raise SupersededError("intake: its turn took too long and may be another's")


class Turns:
    """Turns in a store."""

    def __init__(self, store: ObjectStore, *, times: Times) -> None:
        """Keep turns in `store`, below a folder of their own."""
        self._store = store
        self._times = times
        self._settle_s = 0.0 if isinstance(store, FolderStore) else times.settle_s

    @contextlib.contextmanager
    def taken(self, *, needless: Callable[[], bool] = lambda: False) -> Iterator[Held | None]:
        """Hold the turn for a block; None where it became needless while others held it.

        Raises:
            BusyError: others held it all the time.
            ArtifactError: the store refuses or is out of reach.
        """
        end = time.monotonic() + self._times.patience_s
        while (number := self._take(token := secrets.token_hex(8))) is None:
            if needless():
                yield None
                return
            if time.monotonic() > end:
                raise BusyError("intake: another start is under way", retry_after_s=5)
            time.sleep(random.uniform(*POLL_S))  # noqa: S311 - so that waiters do not march in step
        began_s = time.monotonic() - self._settle_s
        try:
            yield Held(until_s=began_s + self._times.lease_s / 2)
        finally:
            over = Ticket(token=token, until_s=0, is_over=True)
            self._store.put(_key(number), over.model_dump_json().encode())

    def _take(self, token: str) -> int | None:
        """Try once; returns the number of the turn."""
        last = self._last()
        if last and not self._is_free(last):
            return None
        number = last + 1
        ticket = Ticket(token=token, until_s=time.time() + self._times.lease_s)
        began_s = time.monotonic()
        self._store.put_new(_key(number), ticket.model_dump_json().encode())
        if self._settle_s:
            if time.monotonic() - began_s > self._settle_s:
                return None
            time.sleep(self._settle_s)
        if self._read(number) != ticket:
            return None
        if self._last() != number:  # it was made long ago and removed since
            self._store.delete(_key(number))
            return None
        for old in range(max(1, number - 2 * KEPT), number - KEPT):
            self._store.delete(_key(old))
        return number

    def _last(self) -> int:
        """The highest number there is, or 0."""
        names = (entry.key.rpartition("/")[2].partition(".")[0] for entry in self._store.entries(FOLDER))
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def _is_free(self, number: int) -> bool:
        ticket = self._read(number)
        return ticket is not None and (ticket.is_over or ticket.until_s < time.time())

    def _read(self, number: int) -> Ticket | None:
        try:
            return Ticket.model_validate_json(self._store.get(_key(number)))
        except (NotFoundError, ValidationError):
            return None


def _key(number: int) -> str:
    return f"{FOLDER}/{number:0{DIGITS}d}.json"

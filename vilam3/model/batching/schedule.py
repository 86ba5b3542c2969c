"""Who is decoded next: a queue, the places of a batch, and what each pass of the network works on.

Nothing here knows tensors, threads or text. A pass takes one token of every reply that is being decoded, and besides
at most `chunk` positions of prompts, so that a long prompt delays the others by no more than that.
"""

import heapq
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from vilam3.errors import BusyError

WEIGHT_OF_NEWEST = 0.2  # of the moving mean of how long a request holds its place
LONGEST_RETRY_S = 120


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One request, as far as its turn depends on it.

    Attributes:
        length: Positions of its prompt.
        priority: A lower one is begun earlier.
        slot: Its place in the batch while it is running.
        filled: Positions whose keys and values are in its place.
        admitted_s: When it got its place.
    """

    length: int
    priority: int = 0
    slot: int | None = None
    filled: int = 0
    admitted_s: float = 0.0

    @property
    def is_decoding(self) -> bool:
        """Whether its prompt is done."""
        return self.filled >= self.length

    @property
    def place(self) -> int:
        """Its slot, of one that is running."""
        assert self.slot is not None, "it is running"
        return self.slot


EntryT = TypeVar("EntryT", bound=Entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What lies in one place goes to another that is free."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Generic[EntryT]):
    """Positions of one prompt."""

    entry: EntryT
    start: int
    stop: int

    @property
    def is_last(self) -> bool:
        """Whether the prompt is done with it."""
        return self.stop == self.entry.length


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Generic[EntryT]):
    """One pass: first the moves, then one token of each reply and the chunks."""

    moves: tuple[Move, ...] = ()
    decoding: tuple[EntryT, ...] = ()
    chunks: tuple[Chunk[EntryT], ...] = ()

    @property
    def choosing(self) -> tuple[EntryT, ...]:
        """Whose next token this pass tells, in the order of its logits."""
        return self.decoding + tuple(chunk.entry for chunk in self.chunks if chunk.is_last)


def _nothing_remembered(_entry: Entry) -> int:
    return 0


@dataclass(slots=True, kw_only=True)
class Scheduler(Generic[EntryT]):
    """Queue and places; not for several threads at once.

    Attributes:
        slots: Places of the batch.
        waiting: Requests that may wait.
        chunk: Most prompt positions of one pass.
        clock: Seconds.
    """

    slots: int
    waiting: int
    chunk: int
    clock: Callable[[], float] = time.monotonic
    _queue: list[tuple[int, int, EntryT]] = field(default_factory=list)
    _arrivals: "itertools.count[int]" = field(default_factory=itertools.count)
    _running: dict[int, EntryT] = field(default_factory=dict)
    _mean_s: float = 1.0

    @property
    def running(self) -> tuple[EntryT, ...]:
        """Requests that have a place, the earliest admitted first."""
        return tuple(self._running.values())

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def num_free(self) -> int:
        """Places that nobody has."""
        return self.slots - len(self._running)

    @property
    def has_room(self) -> bool:
        """Whether one more would be taken."""
        return len(self._queue) < self.waiting + self.num_free

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._queue and not self._running

    def submit(self, entry: EntryT) -> None:
        """Put a request into the queue.

        Raises:
            BusyError: as many wait as may.
        """
        if not self.has_room:
            raise BusyError(
                f"engine: {len(self._running)} replies are being decoded and {len(self._queue)} wait, which is the "
                "most it holds; try again later",
                retry_after_s=self._retry_after_s(),
            )
        heapq.heappush(self._queue, (entry.priority, next(self._arrivals), entry))

    def plan(self, remembered: Callable[[EntryT], int] = _nothing_remembered) -> Plan[EntryT]:
        """What the next pass works on; requests are admitted as far as there are places and prompt positions left.

        Args:
            remembered: How many positions an admitted request need not compute. Its place is not to be written yet:
                the moves may still have to read it.
        """
        moves = self._close_ranks()
        decoding = tuple(sorted((entry for entry in self.running if entry.is_decoding), key=lambda entry: entry.place))
        chunks: list[Chunk[EntryT]] = []
        left = self.chunk
        for entry in self.running:
            if not entry.is_decoding and left:
                chunks.append(_next_chunk(entry, left))
                left -= chunks[-1].stop - chunks[-1].start
        while left and self._queue and self.num_free:
            chunks.append(_next_chunk(self._admit(remembered), left))
            left -= chunks[-1].stop - chunks[-1].start
        return Plan(moves=moves, decoding=decoding, chunks=tuple(chunks))

    def advance(self, plan: Plan[EntryT]) -> None:
        """Note that the network has worked on `plan`."""
        for entry in plan.decoding:
            entry.filled += 1
        for chunk in plan.chunks:
            chunk.entry.filled = chunk.stop

    def leave(self, entry: EntryT) -> None:
        """Take a request out, wherever it is."""
        if entry.slot is None:
            self._queue = [waiting for waiting in self._queue if waiting[2] is not entry]
            heapq.heapify(self._queue)
        elif self._running.pop(entry.slot, None) is not None:
            self._mean_s += WEIGHT_OF_NEWEST * (self.clock() - entry.admitted_s - self._mean_s)
            entry.slot = None

    def discard(self, is_unwanted: Callable[[EntryT], bool]) -> list[EntryT]:
        """Take out every request that nobody wants any more."""
        everyone = [*self._running.values(), *(entry for *_, entry in self._queue)]
        unwanted = [entry for entry in everyone if is_unwanted(entry)]
        for entry in unwanted:
            self.leave(entry)
        return unwanted

    def _admit(self, remembered: Callable[[EntryT], int]) -> EntryT:
        *_, entry = heapq.heappop(self._queue)
        entry.slot = next(slot for slot in range(self.slots) if slot not in self._running)
        self._running[entry.slot] = entry
        entry.admitted_s = self.clock()
        entry.filled = remembered(entry)
        assert entry.filled < entry.length, "the last position is computed, for its logits"
        return entry

    def _close_ranks(self) -> tuple[Move, ...]:
        """Let the running requests fill the first places, so that a batch is one piece of memory."""
        moves = []
        for slot in range(len(self._running)):
            if slot in self._running:
                continue
            source = max(self._running)
            entry = self._running[source]
            moves.append(Move(source=source, target=slot, length=entry.filled))
            entry.slot = slot
            # the order of admission stays as it is
            self._running = {(slot if key == source else key): kept for key, kept in self._running.items()}
        return tuple(moves)

    def _retry_after_s(self) -> int:
        turns = (len(self._queue) + 1) / self.slots
        return min(LONGEST_RETRY_S, max(1, math.ceil(turns * self._mean_s)))


def _next_chunk(entry: EntryT, most: int) -> Chunk[EntryT]:
    return Chunk(entry=entry, start=entry.filled, stop=min(entry.length, entry.filled + most))

"""Identical calls at the same moment are one run: who asks while it is under way waits for what it finds."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from vilam3.errors import ExpertError
from vilam3.experts.protocol import ExpertResult, Watch

TICK_S = 0.1  # how soon one who waits notices that nobody waits for him


@dataclass(slots=True)
class _Flight:
    """A run that is under way; `result` stays empty where its caller left."""

    fraction: float = 0.0
    result: ExpertResult | None = None
    refusal: str = ""
    is_over: threading.Event = field(default_factory=threading.Event)

    def awaited(self, watch: Watch) -> ExpertResult | None:
        """What it found; None where it ended without finding or refusal.

        Raises:
            ExpertError: the expert refused, as it would again.
            Cancelled: by `watch`.
        """
        while not self.is_over.wait(TICK_S):
            watch(self.fraction)
        if self.refusal:
            raise ExpertError(self.refusal)
        return self.result


class Flights:
    """The runs of this process that are under way, by what tells two calls apart; for several threads."""

    def __init__(self) -> None:
        """Begin with none."""
        self._lock = threading.Lock()
        self._under_way: dict[str, _Flight] = {}

    def join(self, key: str, run: Callable[[Watch], ExpertResult], watch: Watch) -> ExpertResult:
        """The result of `run`, or of the one with the same key that is under way.

        A run belongs to the caller who began it and ends with him; then one of those who waited runs it himself.

        Raises:
            ExpertError: the expert refused.
            Cancelled: by `watch`.
        """
        while True:
            with self._lock:
                flight = self._under_way.get(key)
                if flight is None:
                    mine = self._under_way[key] = _Flight()
                    break
            result = flight.awaited(watch)
            if result is not None:
                return replace(result, is_remembered=True)
        return self._lead(key, mine, run, watch)

    def _lead(self, key: str, flight: _Flight, run: Callable[[Watch], ExpertResult], watch: Watch) -> ExpertResult:
        def watching(fraction: float, /) -> None:
            flight.fraction = fraction
            watch(fraction)

        try:
            result = flight.result = run(watching)
        except ExpertError as error:
            flight.refusal = str(error)
            raise
        else:
            return result
        finally:
            with self._lock:
                del self._under_way[key]
            flight.is_over.set()

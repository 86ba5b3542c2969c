"""Watches a job by asking again and again, which outlives restarts of the API server and of the watcher itself.

A job may wait in a queue for days. What holds machines must come to its first step, and from step to step, within the
times of the installation.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vilam3.errors import ClusterError, ClusterOutOfReachError, JobLostError, OutOfReachError
from vilam3.launch.failure import CONFIGURATION, IMAGE, SLOW_START, STALLED, Failure, classify
from vilam3.launch.failure import STOPPED as ENDED_BY_SOMEBODY
from vilam3.launch.status import Finding, Observation, Phase
from vilam3.progress import Update, format_seconds

RECENT_S = 900.0  # what befell a pod longer ago has been outlived
BROKEN_S = 600.0  # a registry may be away for a moment
BLIND_S = 3600.0  # without an answer of the API server or the store
EVERY_S = 10.0
SAY_EVERY_S = 60.0
MARK_EVERY_S = 60.0


class Source(Protocol):
    """What is asked."""

    def observe(self) -> Observation | None:
        """The job, its pods and its newest word; None where there is no such job."""
        ...

    def mark(self) -> None:
        """Let it know that it is watched."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Longest times, in seconds; there is none for waiting in a queue."""

    starting_s: float
    stalled_s: float
    broken_s: float = BROKEN_S
    blind_s: float = BLIND_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A job when the watch ended.

    Attributes:
        last: The last observation.
        failure: Why it failed; None where it succeeded, or the watcher was asked to end.
        is_standing: It is there still and must be ended.
        seconds: Spent in each phase, as far as this watcher saw.
    """

    last: Observation
    failure: Failure | None = None
    is_standing: bool = False
    seconds: Mapping[Phase, float] = field(default_factory=dict)


class Watch:
    """One job, from attaching to it until it is over."""

    def __init__(
        self, source: Source, *, deadlines: Deadlines, say: Callable[[str], None], every_s: float = EVERY_S
    ) -> None:
        """Ask `source` every so often, and `say` what changed."""
        self._source = source
        self._deadlines = deadlines
        self._say = say
        self._every_s = every_s
        self._seconds: dict[Phase, float] = {}
        self._incidents: deque[tuple[float, Finding]] = deque(maxlen=1000)
        self._said = ("", float("-inf"))
        self._marked_at = float("-inf")
        self._place: tuple[Phase, int] | None = None
        self._is_broken = False
        self._held_s = self._broken_s = self._blind_s = 0.0  # in this place, so broken, without an answer

    def until_over(self, stop: threading.Event) -> Seen:
        """Watch until the job is over, is to be ended, or `stop` is set.

        Raises:
            ClusterError: the API server refuses, which is not the same as being away.
            JobLostError: nothing was to be heard for too long; the job itself may go on.
        """
        last, asked = Observation(phase="queued"), time.monotonic()
        while not stop.is_set():
            now = time.monotonic()
            took, asked = now - asked, now
            try:
                found = self._observe()
            except (ClusterError, OutOfReachError) as error:
                # A server that has just started refuses everybody until it has read who may do what.
                if not self._blind_s and not isinstance(error, (ClusterOutOfReachError, OutOfReachError)):
                    raise
                self._be_blind(took, error)
                stop.wait(self._every_s)
                continue
            self._blind_s = 0.0
            if found is None:
                return self._seen(last, Failure(cause=ENDED_BY_SOMEBODY, detail="it is not there any more"))
            last = found
            self._account(last, took)
            if last.phase == "over":
                failure = None if last.has_succeeded else classify(last, before=self._recent())
                return self._seen(last, failure)
            if (failure := self._overdue(last)) is not None:
                return self._seen(last, failure, is_standing=True)
            stop.wait(self._every_s)
        return self._seen(last, None, is_standing=True)

    def _observe(self) -> Observation | None:
        found = self._source.observe()
        if found is not None and time.monotonic() - self._marked_at >= MARK_EVERY_S:
            self._source.mark()
            self._marked_at = time.monotonic()
        return found

    def _be_blind(self, took: float, error: Exception) -> None:
        self._tell(f"no answer, the job goes on by itself: {error}", at_once=not self._blind_s)
        self._blind_s += took
        if self._blind_s > self._deadlines.blind_s:
            blind = format_seconds(self._blind_s)
            raise JobLostError(f"no answer for {blind} ({error}); the job may go on, try again to find it") from error

    def _account(self, found: Observation, took: float) -> None:
        """Add up how long the job has been where it is."""
        self._seconds[found.phase] = self._seconds.get(found.phase, 0.0) + took
        place = (found.phase, found.step)
        self._held_s = self._held_s + took if place == self._place else 0.0
        is_new_phase = self._place is None or place[0] != self._place[0]
        self._place = place
        standing = [finding for finding in found.findings if finding.is_standing]
        is_new_trouble = bool(standing) and not self._is_broken
        self._is_broken = bool(standing)
        self._broken_s = self._broken_s + took if standing else 0.0
        known = {finding for _, finding in self._incidents}
        now = time.monotonic()
        self._incidents += [
            (now, one) for one in found.findings if not one.is_standing and one not in known
        ]  # fmt: skip
        self._tell(_line(found, self._held_s), at_once=is_new_phase or is_new_trouble)

    def _overdue(self, found: Observation) -> Failure | None:
        """What lasts too long, if anything does."""
        limits = self._deadlines
        held = f"for {format_seconds(self._held_s)}"
        if self._broken_s > limits.broken_s:
            standing = next(finding for finding in found.findings if finding.is_standing)
            cause = IMAGE if standing.incident == "image" else CONFIGURATION
            return Failure(cause=cause, where=f"pod {standing.pod}", detail=standing.detail)
        if found.phase == "starting" and self._held_s > limits.starting_s:
            return Failure(cause=SLOW_START, detail=f"{held}, and {format_seconds(limits.starting_s)} is the most")
        if found.phase == "running" and self._held_s > limits.stalled_s:
            done = f"at step {found.step} {held}, and {format_seconds(limits.stalled_s)} is the most"
            return Failure(cause=STALLED, detail=done)
        return None

    def _recent(self) -> list[Finding]:
        now = time.monotonic()
        return [finding for at, finding in self._incidents if now - at <= RECENT_S]

    def _seen(self, last: Observation, failure: Failure | None, *, is_standing: bool = False) -> Seen:
        seconds: dict[Phase, float] = {
            phase: round(taken, 1) for phase, taken in self._seconds.items() if phase != "over"
        }
        return Seen(last=last, failure=failure, is_standing=is_standing, seconds=seconds)

    def _tell(self, line: str, *, at_once: bool = False) -> None:
        """Say what is new, but not more often than people read."""
        before, at = self._said
        now = time.monotonic()
        if at_once or (line != before and now - at >= SAY_EVERY_S):
            self._said = (line, now)
            self._say(line)


def _line(found: Observation, held_s: float) -> str:
    told = found.news
    if found.phase == "running":
        shown = Update(
            stage="running", step=told.step, steps=told.steps, loss=told.loss, seconds_left=told.seconds_left
        )
        return shown.line()
    standing = next((finding for finding in found.findings if finding.is_standing), None)
    trouble = f", pod {standing.pod} waits: {standing.detail or standing.incident}" if standing else ""
    return f"{found.phase} for {format_seconds(held_s)}{trouble}"

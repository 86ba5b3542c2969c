"""From an event to one run, whoever asks, how often and from how many processes.

An event is kept before anything else, and forgotten when its run is in the records; what happens in between may be cut
off anywhere. Only who holds the turn starts runs, and looks first whether the server has one of that name: a run that
was started and never noted is found, one that was claimed and never started is started.
"""

import logging
from dataclasses import dataclass, replace

from vilam3.errors import BusyError, SupersededError, UserError
from vilam3.intake import rules as limits
from vilam3.intake.contents import Seen, look
from vilam3.intake.estimate import estimate
from vilam3.intake.event import Answer, Decision, Event, Run, Starts, run_name
from vilam3.intake.records import Asked, Attempt, Record, Records, now
from vilam3.intake.rules import Hold, Rules
from vilam3.intake.turn import Held, Times, Turns
from vilam3.objects import ObjectStore
from vilam3.train.plan import ACCELERATORS, Assumptions

log = logging.getLogger(__name__)
USUAL = Assumptions(accelerator=ACCELERATORS["h100"])
FREE = Rules()
UNHURRIED = Times()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Of an installation.

    Attributes:
        rules: When a run may start.
        assumptions: For estimates.
        times: Of turns.
    """

    rules: Rules = FREE
    assumptions: Assumptions = USUAL
    times: Times = UNHURRIED


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """An event with all that is known of it."""

    key: str
    asked: Asked
    seen: Seen
    record: Record | None


class Intake:
    """The one way in."""

    def __init__(self, store: ObjectStore, starts: Starts, *, terms: Terms) -> None:
        """Keep records in `store`, which belongs to the intake alone, and start runs by `starts`."""
        self._records = Records(store)
        self._turns = Turns(store, times=terms.times)
        self._starts = starts
        self._terms = terms

    def submit(self, event: Event, *, again: bool = False, dry_run: bool = False) -> Answer:
        """Answer an event; the same one any number of times starts one run.

        Args:
            event: Who asks for what.
            again: Where the last run of this content has failed, start another.
            dry_run: Estimate only; nothing is kept or started.

        Raises:
            UserError: the event names what is not there or not understood.
            ArtifactError: the store refuses or is out of reach; where the event was kept already, it is taken up later.
            EngineError: likewise the server.
        """
        seen = look(event)
        key = seen.digests.key(event.pipeline)
        record = self._records.record(key)
        asked = Asked(event=event, digests=seen.digests, attempt=1, at=now())
        case = _Case(key=key, asked=asked, seen=seen, record=record)
        if dry_run:
            return self._told(case, "dry-run", "nothing was started", run=_last(record))
        if record is not None:
            if not again:
                return self._already(case, record)
            case = replace(case, asked=asked.model_copy(update={"attempt": len(record.attempts) + 1}))
            if (refusal := self._refused(case, record)) is not None:
                return refusal
        case = replace(case, asked=self._records.ask(key, case.asked))
        return self._told_and_logged(self._admitted(case))

    def take_up(self) -> list[Answer]:
        """Go on with every event that has no run yet, the oldest first.

        Raises:
            ArtifactError: the store refuses or is out of reach.
            EngineError: likewise the server.
        """
        answers = []
        for key, asked in self._records.waiting():
            try:
                seen = look(asked.event)
            except UserError as error:  # its data or its base has gone, and it must not stand in the way of others
                log.warning("event dropped", extra={"key": key, "why": type(error).__name__})
                self._records.forget(key)
                continue
            case = _Case(key=key, asked=asked, seen=seen, record=self._records.record(key))
            answers.append(self._told_and_logged(self._admitted(case)))
        return answers

    def _admitted(self, case: _Case) -> Answer:
        """Look at the rules without a turn first, so that a hundred events that must wait do not queue for turns."""
        if self._lacks_run(case) and (held := self._hold(case)) is not None:
            return self._told(case, "held", held.reason, hold=held)
        try:
            with self._turns.taken(needless=lambda: not self._lacks_run(self._reread(case))) as turn:
                return self._decided(self._reread(case), turn)
        except (BusyError, SupersededError) as error:
            return self._told(case, "held", f"{error}; the event is kept and taken up later")

    def _reread(self, case: _Case) -> _Case:
        """With what the records say now."""
        return replace(case, record=self._records.record(case.key))

    def _lacks_run(self, case: _Case) -> bool:
        """Whether no run of this event is there yet, as far as the records know."""
        return case.record is None or len(case.record.attempts) < case.asked.attempt

    def _decided(self, case: _Case, turn: Held | None) -> Answer:
        """What is done while nobody else does anything, or where another has done it."""
        if not self._lacks_run(case):
            assert case.record is not None
            if turn:
                self._records.settle(case.key, case.record)
            return self._already(case, case.record)
        assert turn is not None
        name = run_name(case.asked.event.pipeline, case.key, attempt=case.asked.attempt)
        found = self._starts.find(name)
        if found is not None:
            return self._already(case, self._noted(case, found))
        if case.seen.digests != case.asked.digests:
            self._records.forget(case.key)
            return self._told(
                case, "refused", "what it was asked for is no longer there; other content is another event"
            )
        if (held := self._hold(case)) is not None:
            return self._told(case, "held", held.reason, hold=held)
        turn.check()
        event = case.asked.event.model_copy(update={"places": case.seen.places})
        run = self._starts.start(name, event, case.asked.digests)
        self._noted(case, run)
        return self._told(case, "started", f"asked by {event.trigger}", run=run)

    def _noted(self, case: _Case, run: Run) -> Record:
        before = case.record.attempts if case.record else ()
        record = Record(pipeline=case.asked.event.pipeline, attempts=(*before, Attempt(run=run, at=now())))
        self._records.settle(case.key, record)
        return record

    def _hold(self, case: _Case) -> Hold | None:
        pipeline = case.asked.event.pipeline
        return limits.hold(self._terms.rules, pipeline, records=self._records, starts=self._starts)

    def _already(self, case: _Case, record: Record) -> Answer:
        last = record.attempts[-1]
        said = f"its run was started at {last.at:%Y-%m-%d %H:%M:%S} UTC; if it has failed, ask for it again explicitly"
        return self._told(case, "already", said, run=last.run)

    def _refused(self, case: _Case, record: Record) -> Answer | None:
        """Another run only where the last has failed, so that asking again a hundred times is one run too."""
        last = record.attempts[-1].run
        run = self._starts.find(last.name) or last.model_copy(update={"state": "failed"})
        if run.state == "failed":
            return None
        return self._told(case, "refused", f"its run is {run.state}; another is for one that has failed", run=run)

    def _told(
        self, case: _Case, decision: Decision, reason: str, *, run: Run | None = None, hold: Hold | None = None
    ) -> Answer:
        event = case.asked.event
        return Answer(
            key=case.key,
            decision=decision,
            reason=reason,
            run=run,
            held_until=hold.until if hold else None,
            digests=case.asked.digests,
            estimate=estimate(
                event.resolved(), event.stages, samples=case.seen.samples, assumptions=self._terms.assumptions
            ),
        )

    def _told_and_logged(self, answer: Answer) -> Answer:
        run = answer.run.id if answer.run else ""
        log.info("event", extra={"key": answer.key, "decision": answer.decision, "run": run})
        return answer


def _last(record: Record | None) -> Run | None:
    return record.attempts[-1].run if record else None

"""One stage trained by a job: made or found again, watched to its end, and its result made ready for the next step."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from vilam3.errors import ArtifactError, CheckpointError, ClusterError, JobLostError, NotFoundError, PreemptedError
from vilam3.launch.attach import Attached, Place, attach, patiently
from vilam3.launch.failure import Failure
from vilam3.launch.job import Request, Template
from vilam3.launch.status import Phase
from vilam3.launch.watch import EVERY_S, Deadlines, Seen, Watch
from vilam3.objects import open_store
from vilam3.train.expense import Expense, Price, expense_of
from vilam3.train.ledger import attempts
from vilam3.train.news import News
from vilam3.train.record import MODELS, STAGE_FILE, StageResult, parse_stage
from vilam3.train.termination import on_termination
from vilam3.workplace import LINEAGE

HOLDING: tuple[Phase, ...] = ("starting", "running")  # machines; in a queue it has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """How a job went, for those who read about it.

    Attributes:
        job: Its name.
        namespace: Where it ran.
        news: Where it left its news.
        seconds: In each phase, as far as this launcher saw.
        workers: How many it has, an accelerator each where there are any.
        failure: Why it failed; None where it did not.
        expense: What it has cost by cause; None where its training never began.
    """

    job: str
    namespace: str
    news: str
    seconds: Mapping[Phase, float]
    workers: int
    failure: Failure | None = None
    expense: Expense | None = None

    def worker_hours(self, *phases: Phase) -> float:
        """What its workers cost in these phases; while queued they hold nothing."""
        return self.workers * sum(self.seconds.get(phase, 0.0) for phase in phases) / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A stage that a job has finished.

    Attributes:
        model: URI of its checkpoint, with the records of the stages that led to it.
        kept: URI of the folder of models that were kept beside it; empty where there are none.
        result: Its record.
        account: How the job went.
    """

    model: str
    kept: str
    result: StageResult
    account: Account


def launch(
    request: Request,
    *,
    template: Template,
    place: Place,
    say: Callable[[str], None],
    on_end: Callable[[Account], None],
    every_s: float = EVERY_S,
) -> Outcome:
    """Train a stage by a job, or go on watching the one that does.

    Asked to end by SIGTERM, it ends the job too, unless only its own machine is being emptied.

    Args:
        request: What to train.
        template: Of the installation.
        place: Where.
        say: Takes a line now and then.
        on_end: Takes how the job went, before an error is raised.
        every_s: Between two looks.

    Raises:
        UserError: what the job refuses, or a job of that name is there for something else.
        JobFailedError: the job failed, and would again.
        JobLostError: the job was lost to a fault of machines.
        PreemptedError: asked to end.
        ClusterError: the API server refuses.
    """
    stop = threading.Event()
    with on_termination(stop):
        job = attach(request, template=template, place=place, run=place.owner(), say=say, every_s=every_s)
        deadlines = Deadlines(starting_s=template.starting_s, stalled_s=template.stalled_s)
        seen = Watch(job, deadlines=deadlines, say=say, every_s=every_s).until_over(stop)
        account = Account(
            job=job.name,
            namespace=place.namespace,
            news=job.news_uri,
            seconds=seen.seconds,
            workers=request.num_workers,
            failure=seen.failure,
        )
        account = replace(account, expense=_expense(seen.last.news, account))
        if seen.is_standing:
            _leave(job, seen, place)
    on_end(account)
    if seen.failure is not None:
        raise seen.failure.error(job.name)
    return finish(seen.last.news.model, base=request.base, account=account)


def _expense(news: News, account: Account) -> Expense | None:
    """From the record of the finished stage, or the ledger of the unfinished one, within the time that was seen."""
    try:
        found = _recorded(news.model) or _begun(news.ledger)
    except (ArtifactError, CheckpointError, NotFoundError):
        return None  # the job is over whether or not its cost is known
    if found is None:
        return None
    held_s = sum(account.seconds.get(phase, 0.0) for phase in HOLDING)
    return found.held(held_s, queue_s=account.seconds.get("queued", 0.0))


def _recorded(model: str) -> Expense | None:
    if not model:
        return None
    above, _, name = model.rstrip("/").rpartition("/")
    text = patiently(lambda: open_store(above).get(f"{name}/{STAGE_FILE}"))
    return parse_stage(text, where=f"{model}/{STAGE_FILE}").expense


def _begun(ledger: str) -> Expense | None:
    if not ledger:
        return None
    above, _, name = ledger.rpartition("/")
    found = attempts(open_store(above), name)
    return expense_of(found, price=Price.here()) if found else None


def _leave(job: Attached, seen: Seen, place: Place) -> None:
    """End a job that is not over, but for a watcher that only moves.

    Raises:
        PreemptedError: asked to end.
    """
    if seen.failure is not None:
        job.end()
        return
    try:
        is_moved = place.is_moved()
    except ClusterError:  # then rather give the machines back: the job goes on from its checkpoint
        is_moved = False
    if is_moved:
        raise PreemptedError(
            f"job {job.name}: its watcher is moved and the job goes on; the same command finds it again"
        )
    job.end()
    raise PreemptedError(f"job {job.name}: asked to end, and ended; the same command goes on from its last checkpoint")


def finish(model: str, *, base: str, account: Account) -> Outcome:
    """Read the record of a finished stage, and put those of the stages before beside it; again does no harm.

    Raises:
        JobLostError: the job has left no word of where its result is.
        CheckpointError: the record is damaged.
    """
    if not model:
        raise JobLostError(
            f"job {account.job}: succeeded, but its last word is lost; start it again to find its result"
        )
    above, _, name = model.rstrip("/").rpartition("/")
    store = open_store(above)
    text = patiently(lambda: store.get(f"{name}/{STAGE_FILE}"))
    result = parse_stage(text, where=f"{model}/{STAGE_FILE}")
    records = {**_records_of(base), result.name: text}
    for stage, record in records.items():
        patiently(lambda stage=stage, record=record: store.put(f"{name}/{LINEAGE}/{stage}/{STAGE_FILE}", record))  # type: ignore[misc]  # of this turn
    kept = any(True for _ in patiently(lambda: list(store.entries(MODELS))))
    return Outcome(model=model, kept=f"{above}/{MODELS}" if kept else "", result=result, account=account)


def _records_of(base: str) -> dict[str, bytes]:
    """Of the stages that led to a checkpoint, by name; a published one brings none."""
    if not base:
        return {}
    above, _, name = base.rstrip("/").rpartition("/")
    store, found = open_store(above), {}
    for entry in patiently(lambda: list(store.entries(f"{name}/{LINEAGE}"))):
        text = patiently(lambda entry=entry: store.get(entry.key))  # type: ignore[misc]  # of this turn
        found[parse_stage(text, where=entry.key).name] = text
    return found

"""The launcher for one machine: plain torch, one process, resumable after any kill with the identical result.

A stage works in a hidden folder beside its output, named for the digest of its inputs, and appears at `out` only when
it is complete; so a folder at `out` always is a finished stage, and says of which inputs.
"""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from vilam3.artifacts import whole_directory, write_json
from vilam3.errors import PreemptedError
from vilam3.model import checkpoint
from vilam3.model.checkpoint import Loaded
from vilam3.objects import FolderStore
from vilam3.recipe import Recipe
from vilam3.settings import Stage
from vilam3.train import state
from vilam3.train.ahead import Ahead
from vilam3.train.batches import Feed
from vilam3.train.expense import Expense, Price, expense_of
from vilam3.train.ledger import Holding, Ledger
from vilam3.train.low_rank import adapt, added_up
from vilam3.train.peers import Peers
from vilam3.train.plan import planned
from vilam3.train.record import (
    MODELS,
    STAGE_FILE,
    StageResult,
    Tracker,
    digest_of,
    weights_digest,
)
from vilam3.train.runlog import RunLog
from vilam3.train.sources import inputs_of, make_feed, starting_network
from vilam3.train.stage import (
    PRECISIONS,
    OnProgress,
    drop_other_work,
    finished,
    link,
    repeatable,
    result_of,
    work_folder,
)
from vilam3.train.state import Learner, Position
from vilam3.train.step import (
    Batch,
    checkpoint_activations,
    freeze,
    loss_of,
    make_optimizer,
    make_scheduler,
    refuse_too_many,
    train_step,
)
from vilam3.train.termination import on_termination
from vilam3.train.validation import Validated, best_of, is_over, loss_over


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Job:
    """One stage being trained."""

    recipe: Recipe
    name: str
    settings: Stage
    inputs: dict[str, str]
    out: Path
    work: Path
    loaded: Loaded
    feed: Feed
    ahead: Ahead
    learner: Learner
    ledger: Ledger
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def steps(self) -> int:
        return self.settings.planned_steps(self.feed.sizes)

    @property
    def digest(self) -> str:
        return digest_of(self.inputs)


def run(  # noqa: PLR0913 - inputs, outputs, and who is told
    recipe: Recipe,
    *,
    stage: str,
    corpus: Path,
    base: Path | None,
    out: Path,
    tracking: Tracker | None = None,
    on_progress: OnProgress | None = None,
    began_s: float | None = None,
) -> StageResult:
    """Train one stage, go on with it, or take over a finished one.

    Args:
        recipe: Resolved.
        stage: Which of its stages.
        corpus: A prepared corpus.
        base: Checkpoint of the stage before; None only where stage 1 starts from nothing.
        out: Where the checkpoint goes; one of other inputs is replaced when this one is complete.
        tracking: Store to log to.
        on_progress: Called after every step with step, steps, loss and seconds left.
        began_s: Wall clock from which on the machine is used for this; None: now.

    Raises:
        RecipeError: the recipe has no such stage, or the stage needs a base.
        DataError: the corpus does not fit.
        CheckpointError: the base does not fit.
        PreemptedError: the process was asked to end; the state is saved, run it again.
    """
    recipe.stage(stage)
    inputs = inputs_of(recipe, stage=stage, corpus=corpus, base=base)
    if (found := finished(out, inputs)) is not None:
        return found
    work = work_folder(out, inputs)
    drop_other_work(out, work)
    ledger = Ledger(FolderStore(work), "", holding=Holding(began_s=began_s))
    with contextlib.closing(ledger), repeatable(recipe):
        loaded = starting_network(recipe, stage=stage, corpus=corpus, base=base)
        feed = make_feed(recipe, stage=stage, corpus=corpus, loaded=loaded)
        job = _job(recipe, stage, inputs, out, work, loaded, feed, ledger)
        diary = RunLog(tracking, recipe, stage=stage, inputs=inputs, steps=job.steps)
        try:
            with on_termination(job.stop), _workers(job) as workers:
                result = _finish(job, _train(job, diary, workers, on_progress), diary)
        except PreemptedError:
            raise
        except BaseException:
            diary.log_numbers(_expense(job).numbers())
            diary.finish(succeeded=False)
            raise
        finally:
            job.feed.close()  # first, for who makes batches may await a store
            job.ahead.close()
        ledger.clear()
    shutil.rmtree(work, ignore_errors=True)
    return result


def _job(  # noqa: PLR0913, PLR0917 - all that a stage is
    recipe: Recipe,
    name: str,
    inputs: dict[str, str],
    out: Path,
    work: Path,
    loaded: Loaded,
    feed: Feed,
    ledger: Ledger,
) -> _Job:
    settings = recipe.stage(name)
    model = loaded.model.train()
    freeze(model, trainable=settings.trainable)
    loaded = adapt(loaded, settings, seed=recipe.seed)
    if settings.gradient_checkpointing:
        checkpoint_activations(model)
    optimizer = make_optimizer(model, settings)
    steps = settings.planned_steps(feed.sizes)
    scheduler = make_scheduler(optimizer, settings, steps=steps)

    def batches(step: int) -> list[Batch]:
        return feed.batches(step, global_batch=settings.global_batch, micro_batch=settings.micro_batch)

    return _Job(
        recipe=recipe,
        name=name,
        settings=settings,
        inputs=inputs,
        out=out,
        work=work,
        loaded=loaded,
        feed=feed,
        ahead=Ahead(batches, steps=steps),
        learner=Learner(model=model, optimizer=optimizer, scheduler=scheduler),
        ledger=ledger,
    )


def _train(job: _Job, diary: RunLog, workers: Executor | None, on_progress: OnProgress | None) -> Position:
    position = state.resume(job.work, job.learner, inputs_digest=job.digest)
    job.feed.unreadable_before = frozenset(position.skipped)
    _tell(job, diary, position)
    job.ledger.begun(position.step)
    started, done_before = time.monotonic() - position.seconds, position.step
    resumed_s = position.seconds
    losses = list(position.losses)
    for step in range(position.step, job.steps):
        if is_over(position.validated, patience=job.settings.patience):
            break
        losses.append(_step(job, step, workers))
        seconds = time.monotonic() - started
        skipped = tuple(sorted(job.feed.unreadable | job.feed.unreadable_before))
        position = replace(position, step=step + 1, losses=tuple(losses), seconds=seconds, skipped=skipped)
        if on_progress is not None:
            left = (seconds - resumed_s) / (step + 1 - done_before) * (job.steps - step - 1)
            with job.ledger.spent("saving"):
                on_progress(step + 1, job.steps, losses[-1], left)
        is_due = position.step % job.settings.checkpoint_every_steps == 0 and position.step < job.steps
        if is_due or position.step == job.steps:
            position = _validated(job, diary, position)
        if is_due or job.stop.is_set():
            _save(job, position, keep_model=is_due)
            _tell(job, diary, position)
            _drop_old_models(job, position)
        if job.stop.is_set():
            raise PreemptedError(
                f"stage {job.name}: asked to end at step {position.step} of {job.steps}; the state is saved, run the "
                "same command to go on"
            )
    return position


def _step(job: _Job, step: int, workers: Executor | None) -> float:
    with job.ledger.spent("data"):
        batches = job.ahead(step)
    skipped = sorted(job.feed.unreadable | job.feed.unreadable_before)
    refuse_too_many(skipped, most=job.settings.corrupt_images_max)
    with job.ledger.spent("step"):
        result = train_step(
            job.loaded.model,
            batches,
            optimizer=job.learner.optimizer,
            scheduler=job.learner.scheduler,
            gradient_clip=job.settings.gradient_clip,
            precision=PRECISIONS[job.recipe.model.precision],
            workers=workers,
        )
    return result.loss


def _validated(job: _Job, diary: RunLog, position: Position) -> Position:
    """With the loss on held-out samples, where there are any."""
    if not job.settings.validation_samples:
        return position
    model, precision = job.loaded.model, PRECISIONS[job.recipe.model.precision]

    def measure(batches: Sequence[Batch]) -> list[float]:
        with torch.no_grad():
            return [float(loss_of(model, one, precision=precision)) for one in batches]

    with job.ledger.spent("validation"):
        held_out = job.feed.held_out(micro_batch=job.settings.micro_batch)
        found = Validated(step=position.step, loss=loss_over(held_out, measure, peers=Peers()))
        diary.log_numbers({"validation_loss": found.loss}, step=found.step)
    return replace(position, validated=(*position.validated, found))


def _save(job: _Job, position: Position, *, keep_model: bool) -> None:
    """Weights first, state last: a state that exists has its weights."""
    if keep_model and job.settings.kept_models:
        with job.ledger.spent("saving"):
            checkpoint.save(_whole_network(job), _kept_model(job, position.step))
    with job.ledger.spent("checkpoint"):
        state.save(job.work, job.learner, position, inputs_digest=job.digest)
    job.ledger.saved(position.step)


def _whole_network(job: _Job) -> Loaded:
    """As it is saved."""
    if not job.settings.lora_rank:
        return job.loaded
    weights = {name: weight.detach() for name, weight in job.loaded.model.named_parameters()}
    return added_up(job.loaded, job.settings, weights)


def _tell(job: _Job, diary: RunLog, position: Position) -> None:
    """Log losses and kept models up to `position`; saying it again after a resume does no harm."""
    with job.ledger.spent("saving"):
        diary.log_losses(position.losses)
        for place in _kept_models(job):
            step = int(place.name.removeprefix("step-"))
            if step <= position.step:
                at = (job.out / MODELS / place.name).absolute().as_uri()
                diary.log_model(place, at=at, losses=position.losses[:step], validated=position.validated)


def _drop_old_models(job: _Job, position: Position) -> None:
    """But for the best on held-out samples."""
    best = best_of(position.validated)
    for old in _kept_models(job)[: -job.settings.kept_models or None]:
        if best is None or old != _kept_model(job, best.step):
            shutil.rmtree(old)


def _kept_model(job: _Job, step: int) -> Path:
    return job.work / MODELS / f"step-{step:08d}"


def _kept_models(job: _Job) -> list[Path]:
    return sorted((job.work / MODELS).glob("step-*"))


def _finish(job: _Job, position: Position, diary: RunLog) -> StageResult:
    with job.ledger.spent("saving"):
        best = best_of(position.validated)
        best_step = best.step if best is not None and best.step != position.step else 0
        with whole_directory(job.out) as partial:
            if best_step:
                shutil.copytree(_kept_model(job, best_step), partial, copy_function=link, dirs_exist_ok=True)
            else:
                checkpoint.save(_whole_network(job), partial)
            result = _result(job, position, best_step=best_step, digest=weights_digest(partial))
            for place in _kept_models(job):
                shutil.copytree(place, partial / MODELS / place.name, copy_function=link)
            write_json(partial / STAGE_FILE, result.to_json())
        if job.settings.kept_models:
            losses = position.losses[: result.weights_step]
            at = job.out.absolute().as_uri()
            diary.log_model(job.out, at=at, losses=losses, validated=position.validated)
        diary.log_losses(position.losses)
        diary.finish(succeeded=True)
        result = replace(result, expense=_expense(job, steps=position.step))
    write_json(job.out / STAGE_FILE, result.to_json())  # with what it took to write it
    diary.log_numbers(result.expense.numbers() if result.expense else {})
    return result


def _result(job: _Job, position: Position, *, best_step: int, digest: str) -> StageResult:
    return result_of(
        job.recipe,
        job.name,
        inputs=job.inputs,
        position=position,
        best_step=best_step,
        digest=digest,
        expense=_expense(job, steps=position.step),
        settings={"threads": str(job.recipe.threads), "data_wait_s": f"{job.ahead.waited_s:.3f}"},
    )


def _expense(job: _Job, *, steps: int = 0) -> Expense:
    """So far."""
    foreseen = planned(job.recipe, job.name, sizes_known=job.feed.sizes, device="")
    return expense_of(job.ledger.attempts(), steps=steps, planned=foreseen, price=Price.here())


@contextlib.contextmanager
def _workers(job: _Job) -> Iterator[Executor | None]:
    """Threads for the parts of a batch; an accelerator is kept busy by one."""
    if job.recipe.threads == 1 or job.loaded.model.device.type != "cpu":
        yield None
        return
    with ThreadPoolExecutor(job.recipe.threads, thread_name_prefix="part") as pool:
        yield pool

"""What a gang leaves: checkpoints and models while it trains, the finished stage in the end.

Files are written while the next steps are computed; the tracking store hears of a model when the checkpoint of its step
counts. Called by all members together, like all that they do.
"""

import functools
import shutil
from dataclasses import replace

import torch

from vilam3.artifacts import whole_directory, write_json
from vilam3.model import checkpoint
from vilam3.model.checkpoint import Loaded
from vilam3.train.expense import Expense, Price, expense_of
from vilam3.train.job import Job
from vilam3.train.low_rank import added_up
from vilam3.train.plan import planned
from vilam3.train.record import STAGE_FILE, StageResult, weights_digest
from vilam3.train.runlog import RunLog
from vilam3.train.stage import link, result_of
from vilam3.train.state import Position


def save(job: Job, position: Position, *, keep_model: bool) -> None:
    """Weights first, state last: a state that exists has its weights. Both are written while training goes on."""
    first = None
    if keep_model and job.settings.kept_models:
        with job.ledger.spent("saving"):
            whole = _whole_network(job)
        if whole is not None:
            first = functools.partial(job.models.save, whole, position.step)
    with job.ledger.spent("checkpoint"):
        job.checkpoints.save(job.strategy, position, first=first)
    job.ledger.saved(position.step)


def settle(job: Job, diary: RunLog) -> None:
    """Wait for the last checkpoint, and tell of it once it counts."""
    with job.ledger.spent("checkpoint"):
        written = job.checkpoints.settle()
    if written is not None:
        tell(job, diary, written)


def tell(job: Job, diary: RunLog, position: Position) -> None:
    """Let the tracking store know of losses and models up to here."""
    if job.peers.leads:
        with job.ledger.spent("saving"):
            job.models.tell(diary, position)


def _whole_network(job: Job) -> Loaded | None:
    """The network in the leader's memory, in float32 as one process keeps it; nothing for the others."""
    weights = {}
    for name, weight in job.strategy.network():
        if job.peers.leads:
            weights[name] = weight.to("cpu", torch.float32, copy=True)
    return added_up(job.loaded, job.settings, weights) if job.peers.leads else None


def finish(job: Job, position: Position, diary: RunLog) -> StageResult:
    """Put the stage at the output, tell of it, and remove what only training needed.

    Raises:
        ArtifactError: it cannot be written.
        SupersededError: another gang has taken the run over.
    """
    settle(job, diary)  # who was superseded hears of it here, before it would put anything at the output
    with job.ledger.spent("saving"):
        whole, result = _whole_network(job), None
        if whole is not None:
            result = _written(job, position, diary, whole)
    if result is not None:
        with job.ledger.spent("saving"):
            result = replace(result, expense=expense(job, steps=position.step))
        write_json(job.order.out / STAGE_FILE, result.to_json())  # with what it took to write it
        job.models.tell_result()
        diary.log_numbers(result.expense.numbers() if result.expense else {})
        job.ledger.clear()
        shutil.rmtree(job.models.work, ignore_errors=True)
    job.checkpoints.clear()
    job.strategy.close()
    told: StageResult = job.peers.told(result)
    return told


def _written(job: Job, position: Position, diary: RunLog, whole: Loaded) -> StageResult:
    """The leader puts it at the output and tells of it: the best on held-out samples, else the last one."""
    best = job.models.best(position)
    with whole_directory(job.order.out) as partial:
        if best is not None:
            shutil.copytree(best, partial, copy_function=link, dirs_exist_ok=True)
        else:
            checkpoint.save(whole, partial)
        best_step = 0 if best is None else int(best.name.removeprefix("step-"))
        result = _result(job, position, best_step=best_step, digest=weights_digest(partial))
        job.models.hand_over(partial)
        write_json(partial / STAGE_FILE, result.to_json())
    job.models.finish(diary, position, step=result.weights_step)
    diary.log_losses(position.losses)
    diary.finish(succeeded=True)
    return result


def expense(job: Job, *, steps: int = 0) -> Expense:
    """So far."""
    foreseen = planned(job.recipe, job.order.stage, sizes_known=job.feed.sizes, device=job.meter.name)
    return expense_of(job.ledger.attempts(), steps=steps, planned=foreseen, price=Price.here())


def _result(job: Job, position: Position, *, best_step: int, digest: str) -> StageResult:
    return result_of(
        job.recipe,
        job.order.stage,
        inputs=job.inputs,
        position=position,
        best_step=best_step,
        digest=digest,
        expense=expense(job, steps=position.step),
        settings={
            "strategy": job.order.strategy,
            "workers": str(job.peers.world_size),
            "checkpoint_stall_s": f"{job.checkpoints.stalled_s:.3f}",
            "data_wait_s": f"{job.ahead.waited_s:.3f}",
        },
    )

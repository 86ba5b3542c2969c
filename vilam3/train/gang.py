"""One stage trained by several processes that share every batch; knows neither who started them nor DeepSpeed.

Every process calls `take_part` with the same order. Whatever the number of processes and the strategy, the samples of a
step and the weight of every token in its loss are those of one process with one big batch.
"""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from vilam3.errors import DivergedError, PreemptedError, UserError
from vilam3.model.checkpoint import Loaded
from vilam3.objects import open_store
from vilam3.recipe import Recipe, parse_resolved
from vilam3.train import writing
from vilam3.train.ahead import Ahead
from vilam3.train.batches import Feed
from vilam3.train.energy import Meter
from vilam3.train.job import Job
from vilam3.train.kept import KeptModels, take_over
from vilam3.train.ledger import EVERY_S, EVERY_S_AFAR, FOLDER, Holding, Ledger
from vilam3.train.low_rank import adapt
from vilam3.train.order import Control, Order
from vilam3.train.peers import Peers
from vilam3.train.preflight import examine, refuse_unless_fit
from vilam3.train.record import StageResult, digest_of
from vilam3.train.runlog import RunLog, open_tracker
from vilam3.train.sharded import Checkpoints
from vilam3.train.sources import brought, brought_corpus, inputs_of, make_feed, starting_network
from vilam3.train.stage import drop_other_work, finished, repeatable, work_folder
from vilam3.train.state import Position
from vilam3.train.step import (
    Batch,
    checkpoint_activations,
    diverged,
    freeze,
    in_lockstep,
    no_samples,
    rate_factor,
    refuse_too_many,
)
from vilam3.train.strategy import make_strategy
from vilam3.train.validation import Validated, is_over, loss_over


def take_part(
    order: Order, *, peers: Peers, control: Control, on_ledger: Callable[[str], None] | None = None
) -> StageResult:
    """Train the stage together with the others, go on with it, or take over a finished one.

    Raises:
        UserError: the order cannot be carried out.
        UnfitError: a machine is not fit for training.
        PreemptedError: asked to end; the state is saved.
        DivergedError: the loss is no number.
        SupersededError: another gang has taken the run over.
    """
    began_s = order.began_s or time.time()
    recipe = parse_resolved(order.recipe)
    corpus, base = brought_corpus(order.corpus), brought(order.base) if order.base else None
    inputs = peers.told(inputs_of(recipe, stage=order.stage, corpus=corpus, base=base) if peers.leads else None)
    found: StageResult | None = peers.told(_found(order, inputs) if peers.leads else None)
    if found is not None:
        return found
    if on_ledger is not None and peers.leads:
        on_ledger(ledger_uri(order, inputs))
    meter = Meter(peers.device)
    ledger = _ledger(replace(order, began_s=began_s), inputs, meter, peers=peers)
    with contextlib.closing(ledger), repeatable(recipe):
        if peers.world_size > 1:
            refuse_unless_fit(examine(order, peers=peers))
        loaded = starting_network(recipe, stage=order.stage, corpus=corpus, base=base)
        feed = make_feed(recipe, stage=order.stage, corpus=corpus, loaded=loaded)
        job = _job(order, recipe, inputs, loaded, feed, peers=peers, control=control, ledger=ledger, meter=meter)
        diary = RunLog(
            open_tracker(recipe, order.runs if peers.leads else None),
            recipe,
            stage=order.stage,
            inputs=inputs,
            steps=job.steps,
        )
        try:
            return writing.finish(job, _train(job, diary), diary)
        except DivergedError:
            writing.settle(job, diary)  # the last good one is to be whole
            diary.log_numbers(writing.expense(job).numbers())
            diary.finish(succeeded=False)
            raise
        except UserError:
            diary.log_numbers(writing.expense(job).numbers())
            diary.finish(succeeded=False)
            raise
        finally:
            job.feed.close()  # first, for who makes batches may await a store
            job.ahead.close()
            job.checkpoints.close()


def _found(order: Order, inputs: dict[str, str]) -> StageResult | None:
    """The stage finished before, here or in the place of its checkpoints in S3."""
    here = finished(order.out, inputs)
    if here is not None or not order.checkpoints.startswith("s3://"):
        return here
    is_there = take_over(order.out, store=open_store(order.checkpoints), run=run_name(order.stage, inputs))
    return finished(order.out, inputs) if is_there else None


def run_name(stage: str, inputs: dict[str, str]) -> str:
    """Folder of a run's checkpoints: the same inputs find each other, others never meet."""
    return f"{stage}-{digest_of(inputs)[:12]}"


def ledger_uri(order: Order, inputs: dict[str, str]) -> str:
    """Where the records of the stage's time are, see `vilam3.train.ledger`."""
    return f"{order.checkpoints.rstrip('/')}/{run_name(order.stage, inputs)}/{FOLDER}"


def _ledger(order: Order, inputs: dict[str, str], meter: Meter, *, peers: Peers) -> Ledger:
    """Of all members, kept by the leader beside the checkpoints."""
    is_measured = set(peers.gathered(meter.kind)) == {"measured"}
    holding = Holding(
        devices=peers.world_size,
        device=meter.name,
        holder=order.holder,
        began_s=order.began_s,
        is_energy_measured=is_measured,
    )
    every_s = EVERY_S_AFAR if order.checkpoints.startswith("s3://") else EVERY_S
    store = open_store(order.checkpoints)  # whose place may be refused, by all members alike
    return Ledger(store if peers.leads else None, run_name(order.stage, inputs), holding=holding, every_s=every_s)


def _job(  # noqa: PLR0913 - all that a stage is
    order: Order,
    recipe: Recipe,
    inputs: dict[str, str],
    loaded: Loaded,
    feed: Feed,
    *,
    peers: Peers,
    control: Control,
    ledger: Ledger,
    meter: Meter,
) -> Job:
    settings = recipe.stage(order.stage)
    model = loaded.model.train()
    freeze(model, trainable=settings.trainable)
    loaded = adapt(loaded, settings, seed=recipe.seed)
    model.to(peers.device)
    if settings.gradient_checkpointing:
        checkpoint_activations(model)
    run, store = run_name(order.stage, inputs), open_store(order.checkpoints)
    at = f"{order.checkpoints.rstrip('/')}/{run}" if order.checkpoints.startswith("s3://") else ""
    work = work_folder(order.out, inputs)
    if peers.leads:
        drop_other_work(order.out, work)

    def share(step: int) -> list[Batch]:
        sizes = {"global_batch": settings.global_batch, "micro_batch": settings.micro_batch}
        return feed.batches(step, **sizes, rank=peers.rank, world_size=peers.world_size)

    return Job(
        order=order,
        recipe=recipe,
        settings=settings,
        inputs=inputs,
        loaded=loaded,
        feed=feed,
        ahead=Ahead(share, steps=settings.planned_steps(feed.sizes)),
        strategy=make_strategy(order.strategy, model, recipe, settings, peers=peers),
        checkpoints=Checkpoints(store, run=run, inputs_digest=digest_of(inputs), peers=peers),
        models=KeptModels(work, out=order.out, count=settings.kept_models, store=store if at else None, run=run, at=at),
        peers=peers,
        control=control,
        ledger=ledger,
        meter=meter,
    )


def _train(job: Job, diary: RunLog) -> Position:
    position = job.checkpoints.resume(job.strategy)
    job.feed.unreadable_before = frozenset(position.skipped)
    writing.tell(job, diary, position)
    job.ledger.begun(position.step)
    started, first = time.monotonic() - position.seconds, position
    losses = list(position.losses)
    for step in range(position.step, job.steps):
        if is_over(position.validated, patience=job.settings.patience):
            break
        loss, stops = _step(job, step)
        losses.append(loss)
        seconds = time.monotonic() - started
        position = replace(position, step=step + 1, losses=tuple(losses), seconds=seconds)
        if job.peers.leads:
            left = (seconds - first.seconds) / (step + 1 - first.step) * (job.steps - step - 1)
            with job.ledger.spent("saving"):
                job.control.report(step + 1, job.steps, loss, left)
            if job.checkpoints.is_settled():
                writing.settle(job, diary)
        is_due = position.step % job.settings.checkpoint_every_steps == 0 and position.step < job.steps
        if is_due or step + 1 == job.steps:
            position = _validated(job, diary, position)
        if is_due or stops or step + 1 == job.steps:
            with job.ledger.spent("checkpoint"):
                position = replace(position, skipped=_skipped(job))
        if is_due or stops:
            writing.save(job, position, keep_model=is_due)
        if stops:
            writing.settle(job, diary)
            job.peers.meet()
            raise PreemptedError(
                f"stage {job.order.stage}: asked to end at step {position.step} of {job.steps}; the state is saved, "
                "run the same command to go on"
            )
    return position


def _step(job: Job, step: int) -> tuple[float, bool]:
    """The loss of a step, and whether any member was asked to end."""
    with job.ledger.spent("data"):
        batches = job.ahead(step)
        unreadable = len(job.feed.unreadable)
        mine = [sum(batch.num_targets for batch in batches), len(batches), job.control.should_stop(), unreadable]
        told = job.peers.all_of([*mine, job.meter.joules()])  # and so for the slowest of all
    with job.ledger.spent("step"):
        targets, counts, stops, skipped, joules = zip(*told, strict=True)
        if job.meter.kind != "unknown":
            job.ledger.used(sum(joules))
        if sum(skipped) + len(job.feed.unreadable_before) > job.settings.corrupt_images_max:
            refuse_too_many(_skipped(job), most=job.settings.corrupt_images_max)
        if job.strategy.moves_together:
            batches += [no_samples()] * (int(max(counts)) - len(batches))
            size = job.loaded.config.vision.image_size
            batches = [in_lockstep(batch, image_size=size) for batch in batches]
        return _learned(job, step, batches, num_targets=int(sum(targets))), any(stops)


def _learned(job: Job, step: int, batches: list[Batch], *, num_targets: int) -> float:
    """The loss of the step, after which the weights have moved."""
    losses = job.strategy.add_gradients(batches, num_targets=num_targets)
    loss = sum(share for (share,) in job.peers.all_of([sum(losses)]))
    _refuse_unless_finite(job, loss, step, batches, losses)
    factor = rate_factor(step, steps=job.steps, warmup_ratio=job.settings.warmup_ratio)
    norm = job.strategy.move(learning_rate=job.settings.learning_rate * factor)
    if not math.isfinite(norm):
        _refuse_unless_finite(job, norm, step, batches, [norm] * len(batches))
    return loss


def _validated(job: Job, diary: RunLog, position: Position) -> Position:
    """With the loss on held-out samples, where there are any."""
    if not job.settings.validation_samples:
        return position
    peers = job.peers
    with job.ledger.spent("validation"):
        held_out = job.feed.held_out(micro_batch=job.settings.micro_batch, rank=peers.rank, world_size=peers.world_size)
        loss = loss_over(
            held_out,
            job.strategy.measure,
            peers=peers,
            moves_together=job.strategy.moves_together,
            image_size=job.loaded.config.vision.image_size,
        )
        diary.log_numbers({"validation_loss": loss}, step=position.step)
    return replace(position, validated=(*position.validated, Validated(step=position.step, loss=loss)))


def _skipped(job: Job) -> tuple[str, ...]:
    """Samples left out by anyone so far."""
    found = job.peers.gathered(sorted(job.feed.unreadable))
    return tuple(sorted(job.feed.unreadable_before.union(*found)))


def _refuse_unless_finite(job: Job, value: float, step: int, batches: Sequence[Batch], losses: list[float]) -> None:
    """Name the samples of the parts that went wrong, whoever computed them."""
    if math.isfinite(value):
        return
    own = [
        name for batch, loss in zip(batches, losses, strict=True) if not math.isfinite(loss) for name in batch.samples
    ]
    raise diverged(value, step=step + 1, samples=[name for one in job.peers.gathered(own) for name in one])

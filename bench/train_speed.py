"""Tokens a second against the published pattern: the same samples, network and optimizer, one thread, turn by turn.

Time is the processor's, so that what else the machine does is not counted; a token is a position of a sample as if it
were alone, whoever computes it once for several.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.record import Figure
from bench.training import upstream
from bench.training.corpus import write_corpus
from bench.training.workload import MICRO_BATCH, STEP_SAMPLES, Workload, workload
from vilam3.model.vila import Vila
from vilam3.train.example import Example
from vilam3.train.packing import fill
from vilam3.train.rows import rows_of
from vilam3.train.step import Batch, checkpoint_activations, loss_of, make_optimizer

STEPS = 3
LEAST_VS_PADDED, LEAST_VS_INBATCH, LEAST_FILL = 2.0, 1.3, 0.95
CAPACITY, PUBLISHED_STEP = 4096, 1024
ROUNDING = 1e-3  # between losses whose sums are taken in another order
Loss = Callable[[Vila, Batch], Tensor]


@dataclass(slots=True, kw_only=True, eq=False)
class Way:
    """One way to run a step, and what it took so far.

    Attributes:
        name: For messages.
        loss: Mean over the targets of a batch.
        model: Of its own.
        seconds: Of the processor, by part of the step.
        computed: Positions, padding included.
        real: Those of them that are not padding.
    """

    name: str
    loss: Loss
    model: Vila
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("forward", "backward", "optimizer"), 0.0))
    computed: int = 0
    real: int = 0

    @property
    def total_s(self) -> float:
        """Of all parts."""
        return sum(self.seconds.values())


def figures() -> list[Figure]:
    """Each baseline of a speed is the least that it must be."""
    with tempfile.TemporaryDirectory(prefix="vilam3-bench-") as folder:
        write_corpus(Path(folder) / "corpus")
        work = workload(Path(folder) / "corpus")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            tokens, padded, in_batch, ours = measure(work)
        finally:
            torch.set_num_threads(threads)
        published = published_fill(work)
    speed = tokens / ours.total_s
    return [
        Figure(name="tokens_per_s", value=speed, unit="1/s"),
        Figure(name="tokens_per_s, padded", value=tokens / padded.total_s, unit="1/s"),
        Figure(name="tokens_per_s, packed in the batch", value=tokens / in_batch.total_s, unit="1/s"),
        Figure(name="tokens_per_s_vs_padded", value=padded.total_s / ours.total_s, unit="x", baseline=LEAST_VS_PADDED),
        Figure(
            name="tokens_per_s_vs_inbatch_packed",
            value=in_batch.total_s / ours.total_s,
            unit="x",
            baseline=LEAST_VS_INBATCH,
        ),
        Figure(name="packing_fill", value=published, unit="share", baseline=LEAST_FILL),
        *(
            Figure(name=f"real positions of those computed, {way.name}", value=way.real / way.computed, unit="share")
            for way in (padded, in_batch, ours)
        ),
        Figure(name="positions computed by samples' own", value=ours.real / tokens, unit="share"),
        Figure(name="mean length of a sample", value=tokens / (STEPS * STEP_SAMPLES), unit="positions"),
        *(
            Figure(name=f"step, {part}", value=seconds / ours.total_s, unit="share")
            for part, seconds in ours.seconds.items()
        ),
    ]


def measure(work: Workload) -> tuple[int, Way, Way, Way]:
    """Tokens of all steps, and what padded, packed in the batch and our own took for them."""

    def own(model: Vila, batch: Batch) -> Tensor:
        return loss_of(model, batch, precision=torch.float32)

    model = work.loaded.model.train()
    checkpoint_activations(model)
    losses = {
        "padded": upstream.loss_with_all_logits,
        "packed in the batch": upstream.loss_with_all_logits,
        "ours": own,
    }
    ways = [Way(name=name, loss=loss, model=copy.deepcopy(model)) for name, loss in losses.items()]
    optimizers = [make_optimizer(way.model, work.stage) for way in ways]
    total = 0
    for step in range(STEPS):
        drawn = work.feed.drawn(step, global_batch=STEP_SAMPLES)
        total += sum(one.length for one in drawn)
        found = []
        for way, optimizer in zip(ways, optimizers, strict=True):
            found.append(_timed_step(way, _batches(way, drawn, work, step), optimizer))
        assert max(found) - min(found) < ROUNDING, found  # the same step, whoever computes it
    padded, in_batch, ours = ways
    return total, padded, in_batch, ours


def _batches(way: Way, drawn: Sequence[Example], work: Workload, step: int) -> list[Batch]:
    if way.name == "ours":
        return work.feed.batches(step, global_batch=STEP_SAMPLES, micro_batch=MICRO_BATCH)
    make = upstream.padded if way.name == "padded" else upstream.packed_in_batch
    return make(drawn, work.feed.pictures, micro_batch=MICRO_BATCH)


def _timed_step(way: Way, batches: Sequence[Batch], optimizer: torch.optim.Optimizer) -> float:
    """The loss of the step."""
    targets, total = sum(batch.num_targets for batch in batches), 0.0
    optimizer.zero_grad(set_to_none=True)
    for batch in batches:
        began = time.process_time()
        loss = way.loss(way.model, batch) * (batch.num_targets / targets)
        done = time.process_time()
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped
        way.seconds["forward"] += done - began
        way.seconds["backward"] += time.process_time() - done
        computed, real = upstream.positions_computed(batch, tokens_per_image=way.model.config.tokens_per_image)
        way.computed, way.real, total = way.computed + computed, way.real + real, total + float(loss.detach())
    began = time.process_time()
    nn.utils.clip_grad_norm_(way.model.parameters(), 1.0)
    optimizer.step()
    way.seconds["optimizer"] += time.process_time() - began
    return total


def published_fill(work: Workload) -> float:
    """Real positions in rows of 4,096, for steps of 1,024 samples as published, the last row of a step included."""
    drawn = work.feed.drawn(0, global_batch=PUBLISHED_STEP)
    rows = rows_of(drawn, capacity=CAPACITY)
    lengths = [sum(piece.example.length for piece in row) for row in rows]
    return fill(lengths, [[index] for index in range(len(lengths))], capacity=CAPACITY)

"""What every launcher does around a stage: find it finished, make its arithmetic repeatable, end when asked to."""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from vilam3.errors import CheckpointError
from vilam3.model.digests import verify_digests
from vilam3.recipe import Recipe
from vilam3.train.expense import Expense
from vilam3.train.record import STAGE_FILE, StageResult, digest_of, final_loss, read_stage
from vilam3.train.state import Position

OnProgress = Callable[[int, int, float, float], None]  # step, steps, loss, seconds left
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
log = logging.getLogger(__name__)


def work_folder(out: Path, inputs: dict[str, str]) -> Path:
    """Where a stage works until it is complete: hidden beside its output, named for the digest of its inputs."""
    return out.parent / f".{out.name}.{digest_of(inputs)[:12]}.work"


def drop_other_work(out: Path, work: Path) -> None:
    """Remove what was begun there of other inputs."""
    for stale in set(out.parent.glob(f".{out.name}.*.work")) - {work}:
        shutil.rmtree(stale, ignore_errors=True)


def finished(out: Path, inputs: dict[str, str]) -> StageResult | None:
    """The stage at `out`, if it is whole and of these inputs."""
    if not (out / STAGE_FILE).is_file():
        return None
    try:
        found = read_stage(out)
        verify_digests(out)
    except CheckpointError as error:
        log.warning("stage is trained again: %s", error)
        return None
    if found.inputs_digest != digest_of(inputs):
        changed = sorted(key for key, value in inputs.items() if found.inputs.get(key) != value)
        log.warning("stage %s is trained again: %s changed since it was finished", found.name, ", ".join(changed))
        return None
    return replace(found, is_reused=True)


def result_of(  # noqa: PLR0913 - what a record says
    recipe: Recipe,
    stage: str,
    *,
    inputs: Mapping[str, str],
    position: Position,
    best_step: int,
    digest: str,
    expense: Expense,
    settings: Mapping[str, str],
) -> StageResult:
    """The record of a stage that has come to its end.

    Args:
        recipe: That it is of.
        stage: Which of its stages.
        inputs: Digests of what it was trained from.
        position: Where training ended.
        best_step: Whose weights these are; 0: those of the last step.
        digest: Of the weights.
        expense: What it has cost.
        settings: How it was trained, with no bearing on what came out.
    """
    return StageResult(
        name=stage,
        recipe=recipe.name,
        steps=position.step,
        samples=position.step * recipe.stage(stage).global_batch,
        seconds=round(position.seconds, 3),
        final_loss=final_loss(position.losses[: best_step or None]),
        losses=position.losses,
        inputs=inputs,
        inputs_digest=digest_of(inputs),
        weights_digest=digest,
        skipped=position.skipped,
        validated=tuple((one.step, one.loss) for one in position.validated),
        best_step=best_step,
        expense=expense,
        settings={**settings, "torch": str(torch.__version__)},
    )


def link(source: str, target: str) -> str:
    """Share the file where the file system can, so that weights are not written twice."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target


@contextlib.contextmanager
def repeatable(recipe: Recipe) -> Iterator[None]:
    """Fixed seed, undivided operations, only algorithms that give the same bits every time; undone afterwards."""
    threads, was_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(1)  # threads take whole parts of the batch, see `vilam3.train.gradients`
    torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=was_deterministic)
        torch.set_num_threads(threads)

"""One way in for every launcher: what a stage needs, and who trains it. Knows neither Ray nor DeepSpeed."""

import contextlib
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import psutil

from vilam3.errors import RecipeError
from vilam3.objects import open_store
from vilam3.recipe import Recipe, parse_resolved
from vilam3.train import local
from vilam3.train.gang import ledger_uri, run_name
from vilam3.train.kept import take_over
from vilam3.train.order import Order
from vilam3.train.peers import Peers
from vilam3.train.preflight import Check, examine
from vilam3.train.record import FINAL, STAGE_FILE, StageResult
from vilam3.train.runlog import open_tracker
from vilam3.train.sources import brought, brought_corpus, inputs_of
from vilam3.train.stage import OnProgress, finished
from vilam3.train.strategy import STRATEGIES, StrategyName, default_strategy

LauncherName = Literal["local", "torchrun", "ray"]
STARTED_TICKS = 19  # place of the start time behind the name, see proc(5)
LAUNCHERS: tuple[LauncherName, ...] = get_args(LauncherName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a stage is to be trained; what is None follows from the recipe.

    Attributes:
        launcher: `local` is one process; `torchrun` are processes that exist; `ray` starts them.
        workers: Data-parallel processes, with an accelerator each where there are any.
        strategy: How they divide the model.
        checkpoints: Where they keep their state, ``file:///folder`` or ``s3://bucket/prefix``; None: beside the output.
        runs: Folder of the tracking store where it is a file; None logs nothing.
        began_s: Wall clock from which on this machine is used for it; None: from now.
    """

    launcher: LauncherName = "local"
    workers: int | None = None
    strategy: StrategyName | None = None
    checkpoints: str | None = None
    runs: Path | None = None
    began_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse what would have no effect."""
        given = {"--workers": self.workers, "--strategy": self.strategy, "--checkpoints": self.checkpoints}
        useless = {"local": tuple(given), "torchrun": ("--workers",), "ray": ()}[self.launcher]
        for flag in useless:
            if given[flag] is not None:
                raise RecipeError(
                    f"{flag}={given[flag]} has no effect with --launcher {self.launcher}; leave it out or use ray"
                )
        if self.workers is not None and self.workers < 1:
            raise RecipeError(f"--workers={self.workers}: must be at least 1")


def from_texts(texts: Mapping[str, str], *, runs: Path | None) -> Launch:
    """As a pipeline has it: every setting a text, empty for what the recipe says.

    Raises:
        RecipeError: a launcher, strategy or number that there is not.
    """
    launcher, strategy, workers = (texts.get(name, "") for name in ("launcher", "strategy", "workers"))
    for flag, value, known in (("--launcher", launcher, LAUNCHERS), ("--strategy", strategy, STRATEGIES)):
        if value and value not in known:
            raise RecipeError(f"{flag}={value}: not known; use one of {', '.join(known)}")
    if workers and not workers.isdecimal():
        raise RecipeError(f"--workers={workers}: not a number; leave it empty for the stage's devices")
    return Launch(
        launcher=cast("LauncherName", launcher or "local"),
        workers=int(workers) if workers else None,
        strategy=cast("StrategyName", strategy) if strategy else None,
        checkpoints=texts.get("checkpoints") or None,
        runs=runs,
    )


def run(  # noqa: PLR0913 - inputs, output, and who is told
    recipe: Recipe,
    *,
    stage: str,
    corpus: str,
    base: str,
    out: Path,
    how: Launch,
    on_progress: OnProgress | None = None,
    on_ledger: Callable[[str], None] | None = None,
) -> StageResult:
    """Train one stage, go on with it, or take over a finished one.

    Args:
        recipe: Resolved.
        stage: Which of its stages.
        corpus: A prepared corpus, a path or ``s3://``.
        base: Checkpoint of the stage before, likewise; empty only where stage 1 starts from nothing.
        out: Where the finished stage goes.
        how: Launcher, workers, strategy, and what else does not touch the result.
        on_progress: Called with step, steps, loss and seconds left.
        on_ledger: Called with the URI of the time's records, by who leads or launches others.

    Raises:
        VilaM3Error: see `vilam3.train.local.run` and `vilam3.train.gang.take_part`.
    """
    if how.launcher == "local":
        start = brought(base) if base else None
        return local.run(
            recipe,
            stage=stage,
            corpus=brought_corpus(corpus),
            base=start,
            out=out,
            tracking=open_tracker(recipe, how.runs),
            on_progress=on_progress,
            began_s=how.began_s,
        )
    order = _order(recipe, stage=stage, corpus=corpus, base=base, out=out, how=how)
    if how.launcher == "torchrun":
        from vilam3.train import torchrun  # noqa: PLC0415 - a launcher is loaded when it is chosen

        result = torchrun.run(order, on_progress=on_progress, on_ledger=on_ledger)
    else:
        inputs = inputs_of(recipe, stage=stage, corpus=brought_corpus(corpus), base=brought(base) if base else None)
        if (found := finished(out, inputs)) is not None:
            return found
        if on_ledger is not None:
            on_ledger(ledger_uri(order, inputs))
        from vilam3.train import on_ray  # noqa: PLC0415 - Ray takes seconds to import

        result = on_ray.run(order, workers=how.workers or recipe.stage(stage).devices, on_progress=on_progress)
        _collect(order, inputs)
    shutil.rmtree(_beside(out), ignore_errors=True)
    return result


def process_began_s() -> float:
    """Wall clock of the start of this process, which was started to train; the kernel counts it from its own start."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[STARTED_TICKS])
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s


def model_uri(result: StageResult, *, out: Path, how: Launch) -> str:
    """Where a finished stage is for others: in the store of its checkpoints where that is one, else its folder."""
    if not (how.checkpoints or "").startswith("s3://"):
        return out.absolute().as_uri()
    return f"{str(how.checkpoints).rstrip('/')}/{run_name(result.name, dict(result.inputs))}/{FINAL}"


def preflight(recipe: Recipe, *, stage: str, out: Path, how: Launch) -> tuple[Check, ...]:
    """What those who would train the stage find of their machines; trains nothing.

    Raises:
        VilaM3Error: the members cannot be started.
    """
    order = _order(recipe, stage=stage, corpus="", base="", out=out, how=how)
    try:
        return _preflight(order, how)
    finally:
        with contextlib.suppress(OSError):  # it is in use, or on another machine
            _beside(out).rmdir()


def _preflight(order: Order, how: Launch) -> tuple[Check, ...]:
    if how.launcher == "local":
        return examine(order, peers=Peers())
    if how.launcher == "torchrun":
        from vilam3.train import torchrun  # noqa: PLC0415 - a launcher is loaded when it is chosen

        return torchrun.preflight(order)
    from vilam3.train import on_ray  # noqa: PLC0415 - Ray takes seconds to import

    devices = parse_resolved(order.recipe).stage(order.stage).devices
    return on_ray.preflight(order, workers=how.workers or devices)


def _order(recipe: Recipe, *, stage: str, corpus: str, base: str, out: Path, how: Launch) -> Order:
    return Order(
        recipe=recipe.resolved_json(),
        stage=stage,
        corpus=_absolute(corpus),
        base=_absolute(base),
        out=out.absolute(),
        strategy=how.strategy or default_strategy(recipe.stage(stage)),
        checkpoints=how.checkpoints or _beside(out).as_uri(),
        runs=None if how.runs is None else how.runs.absolute(),
        holder=_starter() if how.launcher == "torchrun" else uuid.uuid4().hex,
        began_s=time.time() if how.began_s is None else how.began_s,
    )


def _starter() -> str:
    """The process that started this one, and starts another in its place without letting go of the machine."""
    parent = psutil.Process().parent()
    return f"{platform.node()} {parent.pid} {parent.create_time()}" if parent is not None else ""


def _beside(out: Path) -> Path:
    return out.absolute().parent / f".{out.name}.checkpoints"


def _absolute(place: str) -> str:
    return place if not place or "://" in place else str(Path(place).absolute())


def _collect(order: Order, inputs: dict[str, str]) -> None:
    """Bring the finished stage here, where the leader worked on another machine."""
    if (order.out / STAGE_FILE).is_file() or not order.checkpoints.startswith("s3://"):
        return
    take_over(order.out, store=open_store(order.checkpoints), run=run_name(order.stage, inputs))

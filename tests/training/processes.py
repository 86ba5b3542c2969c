"""A gang of real processes, as torchrun starts them: one fails, all are ended."""

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import distributed

from tests.unit.serving.live import free_port
from vilam3.errors import VilaM3Error
from vilam3.objects import FolderStore
from vilam3.recipe import Recipe
from vilam3.train import fully_sharded, gang, sharded, torchrun, zero
from vilam3.train.order import Order
from vilam3.train.strategy import StrategyName

FORK = multiprocessing.get_context("fork")  # what members need takes longer to load than they then take
PRELOADED = (fully_sharded, zero)
LIMIT_S = 1500.0  # of a machine with much else to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a test's gangs work."""

    recipe: Recipe
    corpus: Path
    base: Path | None
    folder: Path
    stage: str = "stage4_expert"
    checkpoints: str = ""
    runs: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def order(self, strategy: StrategyName, *, out: str = "out") -> Order:
        """To train the stage."""
        return Order(
            recipe=self.recipe.resolved_json(),
            stage=self.stage,
            corpus=str(self.corpus),
            base="" if self.base is None else str(self.base),
            out=self.folder / out,
            strategy=strategy,
            checkpoints=self.checkpoints or (self.folder / "checkpoints").as_uri(),
            runs=self.runs,
        )

    def changed(self, **changes: object) -> "Place":
        """The same with other settings of the stage."""
        table = self.recipe.model_dump()
        table["stages"][self.stage] |= changes
        return replace(self, recipe=Recipe.model_validate(table))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mischief:
    """What befalls one member: a step after which it kills itself or is asked to end, or a write in which it dies.

    `largest_file_bytes` is what its file system still takes from the first step on, 0 for no bound; `slows_sums_s`,
    `clock_off_s` and `disk_bytes` are what its link, its clock and its disk are like before it. `patience_s` is how
    long it awaits a store, 0 for as long as ever. Whoever `settles` dies when its last checkpoint is written.
    """

    rank: int = 0
    dies_after_step: int = 0
    dies_in_put: int = 0
    settles: bool = False
    terminated_after_step: int = 0
    poisons_step: int = 0
    largest_file_bytes: int = 0
    slows_sums_s: float = 0.0
    clock_off_s: float = 0.0
    disk_bytes: int = 0
    patience_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one member ended: its exit code, and the stage or the error it had."""

    code: int
    result: dict[str, Any] | None = None
    error: str = ""
    message: str = ""


def run_gang(
    place: Place,
    world_size: int,
    strategy: StrategyName,
    *,
    out: str = "out",
    mischief: Mischief | None = None,
    while_running: Callable[[Sequence[int]], None] | None = None,
) -> list[Ending]:
    """Train the stage with `world_size` processes; when one fails the others are ended, as their starter does.

    Args:
        place: Where, and what.
        world_size: Number of processes.
        strategy: How they divide the model.
        out: Name of the output in the place.
        mischief: Done by one member to itself.
        while_running: Called with the process ids once they run.
    """
    notes = place.folder / f"notes-{time.monotonic_ns()}"
    notes.mkdir(parents=True)
    port = str(free_port())
    arguments = (place.order(strategy, out=out).to_json(), notes, mischief, dict(place.environment))
    members = [
        FORK.Process(target=_member, args=(rank, world_size, port, *arguments), daemon=True)
        for rank in range(world_size)
    ]
    for member in members:
        member.start()
    if while_running is not None:
        while_running([member.pid or 0 for member in members])
    end = time.monotonic() + LIMIT_S
    while any(member.is_alive() for member in members) and time.monotonic() < end:
        time.sleep(0.05)
        if any(member.exitcode not in {None, 0, 75} for member in members):
            time.sleep(0.5)
            break
    late = time.monotonic() >= end
    for member in members:
        if member.is_alive():
            member.kill()
        member.join()
    assert not late, f"not finished within {LIMIT_S} s: {[path.read_text() for path in notes.glob('*.json')]}"
    return [_ending(member.exitcode or 0, notes / f"{rank}.json") for rank, member in enumerate(members)]


def finished(endings: Sequence[Ending]) -> dict[str, Any]:
    """The result, which all members have."""
    assert [ending.code for ending in endings] == [0] * len(endings), endings
    results = [ending.result for ending in endings]
    assert results[0] is not None
    assert all(one == results[0] for one in results)
    return results[0]


def _ending(code: int, notes: Path) -> Ending:
    return Ending(code=code, **(json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else {}))


def _member(
    rank: int,
    world_size: int,
    port: str,
    order: dict[str, Any],
    notes: Path,
    mischief: Mischief | None,
    environment: Mapping[str, str],
) -> None:
    group = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world_size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in group.items()} | dict(environment))
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 is about to drop.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    told: dict[str, Any]
    try:
        with (notes / "log").open("a") as log:
            os.dup2(log.fileno(), sys.stderr.fileno())
            _prepare(mischief, rank)
            result = torchrun.run(Order.from_json(order), on_progress=lambda *now: _note(notes, now))
        told, code = {"result": result.to_json()}, 0
    except VilaM3Error as error:
        told, code = {"error": type(error).__name__, "message": str(error)}, error.exit_code
    except Exception as error:  # noqa: BLE001 - told to the test
        told, code = {"error": type(error).__name__, "message": traceback.format_exc()}, 1
    (notes / f"{rank}.json").write_text(json.dumps(told), encoding="utf-8")
    os._exit(code)


def _note(notes: Path, now: tuple[int, int, float, float]) -> None:
    with (notes / "steps").open("a", encoding="utf-8") as steps:
        steps.write(f"{now[0]}\n")


def _prepare(mischief: Mischief | None, rank: int) -> None:
    """Wait for the moment, in this process alone."""
    if mischief is None or mischief.rank != rank:
        return
    _unfit(mischief)
    sharded.PATIENCE_S = mischief.patience_s or sharded.PATIENCE_S
    if mischief.dies_in_put:
        _die_in_put(mischief.dies_in_put)
    step_of = gang._step

    def step(job: Any, number: int) -> tuple[float, bool]:  # noqa: ANN401 - of the gang
        if mischief.largest_file_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (mischief.largest_file_bytes,) * 2)
        if number + 1 == mischief.poisons_step:
            _poison(job)
        done = step_of(job, number)
        if number + 1 == mischief.dies_after_step:
            if mischief.settles:
                job.checkpoints.settle()
            os.kill(os.getpid(), signal.SIGKILL)
        if number + 1 == mischief.terminated_after_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return done

    gang._step = step  # type: ignore[assignment]  # a member is not to know what befalls it


def _unfit(mischief: Mischief) -> None:
    """A machine on which training must not begin: of a slow link, of a clock that is off, with no room on its disk."""
    add_up, now = distributed.all_reduce, time.time
    if mischief.slows_sums_s:

        def slow(*told: Any, **named: Any) -> object:  # noqa: ANN401 - those of torch
            time.sleep(mischief.slows_sums_s)
            return add_up(*told, **named)

        distributed.all_reduce = slow
    if mischief.clock_off_s:
        time.time = lambda: now() + mischief.clock_off_s
    if mischief.disk_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (mischief.disk_bytes,) * 2)


def _poison(job: Any) -> None:  # noqa: ANN401 - of the gang
    """Make the loss of this member's samples no number."""
    job.loaded.model.mm_projector.register_forward_hook(lambda *told: told[2] * float("nan"))


def _die_in_put(number: int) -> None:
    """Killed in the middle of the `number`-th write: half of it is there, under its temporary name."""
    calls, put = 0, FolderStore.put

    def dying(self: FolderStore, key: str, content: bytes | Path) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            whole = content if isinstance(content, bytes) else content.read_bytes()
            half = self._path(key).with_name(f".{Path(key).name}.tmp")
            half.parent.mkdir(parents=True, exist_ok=True)
            half.write_bytes(whole[: len(whole) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, key, content)

    FolderStore.put = dying  # type: ignore[method-assign]  # this process is about to die

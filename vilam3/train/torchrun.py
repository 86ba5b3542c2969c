"""The launcher for processes that torchrun, Kubeflow Trainer or any other starter of torch has started already."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from torch import distributed

from vilam3.errors import RecipeError
from vilam3.train.gang import take_part
from vilam3.train.order import Order
from vilam3.train.peers import Peers
from vilam3.train.preflight import Check, examine
from vilam3.train.record import StageResult
from vilam3.train.stage import OnProgress
from vilam3.train.termination import on_termination

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Signals:
    """Asked to end by SIGTERM; see `vilam3.train.order.Control`."""

    stop: threading.Event = field(default_factory=threading.Event)
    on_progress: OnProgress | None = None

    def report(self, step: int, steps: int, loss: float, seconds_left: float) -> None:
        """See `Control`."""
        if self.on_progress is not None:
            self.on_progress(step, steps, loss, seconds_left)

    def should_stop(self) -> bool:
        """See `Control`."""
        return self.stop.is_set()


def run(
    order: Order, *, on_progress: OnProgress | None = None, on_ledger: Callable[[str], None] | None = None
) -> StageResult:
    """Train the stage as one of the processes that were started for it; `on_ledger` is as of `launch.run`.

    Raises:
        RecipeError: this process was not started as one of several.
        VilaM3Error: what `vilam3.train.gang.take_part` raises.
    """
    signals = Signals(on_progress=on_progress)
    with _joining() as peers, on_termination(signals.stop):
        return take_part(order, peers=peers, control=signals, on_ledger=on_ledger)


def preflight(order: Order) -> tuple[Check, ...]:
    """What the processes that were started find of their machines, before anything is trained.

    Raises:
        RecipeError: this process was not started as one of several.
    """
    with _joining() as peers:
        return examine(order, peers=peers)


@contextlib.contextmanager
def _joining() -> Iterator[Peers]:
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise RecipeError(
            f"--launcher torchrun: {missing[0]} is not set; start it as torchrun --nproc-per-node N -m vilam3 train ..."
        )
    device = local_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group(backend_of(device), timeout=TIMEOUT)
    try:
        yield joined(device)
    finally:
        distributed.destroy_process_group()


def local_device(local_rank: int) -> torch.device:
    """The accelerator of that number, made the current one; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def backend_of(device: torch.device) -> str:
    """Numbers and checkpoints travel between processors, gradients between accelerators."""
    return "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"


def joined(device: torch.device) -> Peers:
    """This process in the group that it has joined."""
    return Peers(rank=distributed.get_rank(), world_size=distributed.get_world_size(), device=device)

"""The launcher on Ray, whose only import this is: Ray Train starts the members, and again when one is lost.

Within a Ray job it uses that cluster; elsewhere it starts a Ray of its own on this machine. Ray is given no
checkpoints: ours are in the store, with a manifest, and the members find the newest whole one by themselves.
"""

import contextlib
import os
import secrets
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, cast

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if "RAY_ADDRESS" not in os.environ and "ray" not in sys.modules:  # nor is this a worker, which has imported it by now
    # A Ray of our own answers only to who knows its token; both are read when Ray is imported.
    # A worker that is slower than this is given up, and the first driver then waits for it for ever.
    os.environ.setdefault("RAY_worker_register_timeout_seconds", "600")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "600")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

import ray
import torch
from ray import train
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vilam3 import errors
from vilam3.errors import (
    DivergedError,
    PreemptedError,
    PrerequisiteError,
    SupersededError,
    UnfitError,
    UserError,
    VilaM3Error,
)
from vilam3.recipe import parse_resolved
from vilam3.scratch import scratch
from vilam3.train.gang import take_part
from vilam3.train.order import Order
from vilam3.train.preflight import Check, examine
from vilam3.train.record import StageResult, stage_result
from vilam3.train.stage import OnProgress
from vilam3.train.termination import on_termination
from vilam3.train.torchrun import backend_of, joined

MAX_FAILURES = 10  # restarts of the gang; each goes on from the last checkpoint
ADDRESS = "RAY_ADDRESS"  # which a Ray job sets
ATTEMPTS = 3
OBJECT_STORE_BYTES = 128 << 20  # of a Ray of our own, which carries nothing large
ASK_EVERY_S = 0.5
FINAL = (UserError, DivergedError, SupersededError, UnfitError)  # a restart would come to the same
AGREED = (PreemptedError, DivergedError, UnfitError)  # which all members raise together


class _Liaison:
    """An actor between the driver and the members."""

    def __init__(self) -> None:
        self._progress: tuple[int, int, float, float] | None = None
        self._stop = False
        self._verdict: dict[str, Any] | None = None

    def report(self, *progress: float) -> None:
        self._progress = cast("tuple[int, int, float, float]", progress)

    def exchange(self, *, stop: bool) -> tuple[int, int, float, float] | None:
        """The driver says whether to stop, and hears how far training is."""
        self._stop = self._stop or stop
        return self._progress

    def should_stop(self) -> bool:
        return self._stop

    def conclude(self, verdict: dict[str, Any]) -> None:
        """The first word stands."""
        self._verdict = self._verdict or verdict

    def verdict(self) -> dict[str, Any] | None:
        return self._verdict


class _Line:
    """A member's end of the liaison; see `vilam3.train.order.Control`."""

    def __init__(self, liaison: Any, *, leads: bool) -> None:  # noqa: ANN401 - a handle of Ray
        self._liaison = liaison
        self._leads = leads

    def report(self, step: int, steps: int, loss: float, seconds_left: float) -> None:
        self._liaison.report.remote(step, steps, loss, seconds_left)

    def should_stop(self) -> bool:
        """The leader asks for all."""
        return self._leads and bool(ray.get(self._liaison.should_stop.remote()))


def run(order: Order, *, workers: int, on_progress: OnProgress | None = None) -> StageResult:
    """Train the stage on `workers` members; a lost one is replaced and all go on from the last checkpoint.

    Raises:
        VilaM3Error: what `vilam3.train.gang.take_part` raised, or that members were lost too often.
    """
    return _outcome(_verdict(order, workers=workers, on_progress=on_progress))


def preflight(order: Order, *, workers: int) -> tuple[Check, ...]:
    """What `workers` members find of their machines, before anything is trained.

    Raises:
        VilaM3Error: members were lost too often.
    """
    verdict = _verdict(replace(order, only_preflight=True), workers=workers, on_progress=None) or {"checks": []}
    return tuple(Check(**values) for values in verdict["checks"])


def _verdict(order: Order, *, workers: int, on_progress: OnProgress | None) -> dict[str, Any] | None:
    """What the members have to say in the end."""
    talk = contextlib.redirect_stdout(sys.stderr)  # of Ray about lost workers; standard output is for the result
    with talk, _connected(workers), scratch("vilam3-ray-") as folder:
        beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        liaison = ray.remote(num_cpus=0, scheduling_strategy=beside)(_Liaison).remote()  # no lost worker takes it along
        trainer = TorchTrainer(
            _member,
            train_loop_config={"order": order.to_json(), "liaison": liaison},
            scaling_config=_scaling(order, workers),
            run_config=train.RunConfig(
                name="vilam3",
                storage_path=str(folder),
                failure_config=train.FailureConfig(max_failures=MAX_FAILURES),
                worker_runtime_env={"env_vars": {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}},  # for equal bits every time
            ),
            torch_config=TorchConfig(backend=backend_of(torch.device("cuda" if _has_gpus(order) else "cpu"))),
        )
        stop = threading.Event()
        with on_termination(stop), _relaying(liaison, stop, on_progress):
            try:
                trainer.fit()
            except train.TrainingFailedError as error:
                reason = str(error).strip().splitlines()[-1:]
                raise VilaM3Error(
                    f"stage {order.stage}: the workers failed more than {MAX_FAILURES} times, last with {reason}; look "
                    "at their logs, then run the same command to go on"
                ) from error
        found: dict[str, Any] | None = ray.get(liaison.verdict.remote())
        return found


def _member(config: dict[str, Any]) -> None:
    """Runs on every worker, again after every failure."""
    order, liaison = Order.from_json(config["order"]), config["liaison"]
    if ray.get(liaison.verdict.remote()) is not None:
        return
    peers = joined(get_device())
    if order.only_preflight:
        ray.get(liaison.conclude.remote({"checks": [asdict(check) for check in examine(order, peers=peers)]}))
        return
    try:
        result = take_part(order, peers=peers, control=_Line(liaison, leads=peers.leads))
    except (*FINAL, PreemptedError) as error:
        ray.get(liaison.conclude.remote({"kind": type(error).__name__, "message": str(error)}))
        if not isinstance(error, AGREED):
            raise  # the others wait for this member; Ray ends them, and at the restart all hear the verdict
    else:
        if peers.leads:
            ray.get(liaison.conclude.remote({"result": result.to_json(), "is_reused": result.is_reused}))


def _outcome(verdict: dict[str, Any] | None) -> StageResult:
    if verdict is None:
        raise VilaM3Error("ray: the workers ended without a result; look at their logs")
    if "kind" in verdict:
        kind: type[VilaM3Error] = getattr(errors, verdict["kind"], VilaM3Error)
        raise kind(verdict["message"])
    values = verdict["result"]
    return replace(stage_result(values), is_reused=verdict["is_reused"])


def _has_gpus(order: Order) -> bool:
    """Those of the recipe may still be to come, where the cluster scales from zero."""
    return parse_resolved(order.recipe).resources.gpus > 0 or ray.cluster_resources().get("GPU", 0) > 0


def _scaling(order: Order, workers: int) -> train.ScalingConfig:
    return train.ScalingConfig(num_workers=workers, use_gpu=_has_gpus(order), resources_per_worker={"CPU": 1})


@contextlib.contextmanager
def _connected(workers: int) -> Iterator[None]:
    """To the cluster of the job, or to one of our own for as long as this runs."""
    if ADDRESS in os.environ:
        ray.init(log_to_driver=False)
    else:
        _start(cpus=max(workers, len(os.sched_getaffinity(0))))
    try:
        yield
    finally:
        ray.shutdown()


def _start(*, cpus: int) -> None:
    """Start a Ray here; again where it was too slow, because what has been read from disk once is read sooner."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(
                num_cpus=cpus, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, log_to_driver=False
            )
        except Exception as error:  # Ray raises just that when its own processes do not answer in time
            ray.shutdown()
            if attempt == ATTEMPTS:
                raise PrerequisiteError(
                    f"ray: does not start on this machine ({error}); look in /tmp/ray/session_latest/logs, and try "
                    "again when the machine is less busy"
                ) from error
        else:
            return


@contextlib.contextmanager
def _relaying(liaison: Any, stop: threading.Event, on_progress: OnProgress | None) -> Iterator[None]:  # noqa: ANN401 - a handle of Ray
    """Pass the wish to end on to the members, and their progress back."""
    done = threading.Event()

    def relay() -> None:
        told = None
        while not done.wait(ASK_EVERY_S):
            progress = ray.get(liaison.exchange.remote(stop=stop.is_set()))
            if progress is not None and progress != told and on_progress is not None:
                told = progress
                on_progress(*progress)

    thread = threading.Thread(target=relay, name="relay", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

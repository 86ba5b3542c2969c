"""Before the first step: whether the members of a gang can work together, measured within a minute and told in a table.

A slow link, a full disk, a store that refuses or a clock that is off costs hours when it is found by training. Every
member measures for itself, all hear the same table, and so all go on or all stop.
"""

import os
import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import distributed

from vilam3.errors import ArtifactError, UnfitError
from vilam3.objects import ObjectStore, open_store
from vilam3.recipe import Recipe, parse_resolved
from vilam3.train.network import network_config
from vilam3.train.order import Order
from vilam3.train.peers import Peers
from vilam3.train.plan import STATE_BYTES, learning_weights
from vilam3.train.sharded import patiently

MEBIBYTE = 1 << 20
PROBE_NUMEL, EXCHANGE_NUMEL = 1 << 16, 1 << 22  # 256 KiB to see whether it is worth sending 16 MiB
MORE_TRIES = 4
DISK_MIB, CHUNK_MIB, DISK_S = 32, 4, 10.0
STORE_PATIENCE_S = 30.0
SIDE = 512  # of the matrices that a device multiplies
LEAST_EXCHANGE, LEAST_DISK, LEAST_STORE = 10.0, 10.0, 0.5  # MiB/s: below, training waits more than it computes
MOST_CLOCK_S = 60.0  # signatures and log lines of members would no longer agree
Rule = Literal["at least", "at most"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one member measured.

    Attributes:
        member: Its number.
        host: Name of its machine.
        name: What was measured.
        value: The number.
        unit: Its unit.
        rule: How it is held against `limit`.
        limit: In the same unit.
        reason: Why there is no number, where there is none.
    """

    member: int
    host: str
    name: str
    value: float
    unit: str
    rule: Rule
    limit: float
    reason: str = ""

    @property
    def is_good(self) -> bool:
        """Whether training may begin."""
        if self.reason:
            return False
        return self.value >= self.limit if self.rule == "at least" else self.value <= self.limit

    def __str__(self) -> str:
        """One line of the table."""
        found = self.reason or f"{self.value:.4g} {self.unit}, {self.rule} {self.limit:.4g} wanted"
        return f"member {self.member} on {self.host}: {self.name}: {found}"

    def to_json(self) -> dict[str, Any]:
        """With the verdict."""
        return {**asdict(self), "is_good": self.is_good}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Examiner:
    """Makes the checks of one member."""

    peers: Peers

    def found(self, name: str, value: float, unit: str, rule: Rule, limit: float, *, reason: str = "") -> Check:
        return Check(
            member=self.peers.rank,
            host=platform.node(),
            name=name,
            value=value,
            unit=unit,
            rule=rule,
            limit=limit,
            reason=reason,
        )


def examine(order: Order, *, peers: Peers) -> tuple[Check, ...]:
    """The checks of all members, by member; called by all of them together."""
    examiner = _Examiner(peers=peers)
    mine = [*_clock(examiner), *_exchange(examiner), _device(examiner)]
    mine += _disk(examiner, needed=_shard_bytes(parse_resolved(order.recipe), order.stage, peers.world_size))
    mine += _store(examiner, open_store(order.checkpoints))
    return tuple(check for member in peers.gathered(mine) for check in member)


def refuse_unless_fit(checks: Sequence[Check]) -> None:
    """Stop where a check has failed.

    Raises:
        UnfitError: they are named.
    """
    failed = [str(check) for check in checks if not check.is_good]
    if failed:
        raise UnfitError(
            f"preflight: {'; '.join(failed)}; mend that machine or keep the run away from it, then run the same command"
        )


def _clock(examiner: _Examiner) -> list[Check]:
    """How far this member is from the leader, which all ask at the same moment."""
    peers = examiner.peers
    peers.meet()
    times = [now for (now,) in peers.all_of([time.time()])]
    apart_s = abs(times[peers.rank] - times[0])
    return [examiner.found("clock beside the first member's", apart_s, "s", "at most", MOST_CLOCK_S)]


def _exchange(examiner: _Examiner) -> list[Check]:
    """Sums between all members, as gradients are; a link that fails a short message is not given a long one."""
    peers, name = examiner.peers, "sums with all others"
    if peers.world_size == 1:
        return []
    _sum(peers, PROBE_NUMEL)  # connects them
    rate, is_right = _best_sum(peers, PROBE_NUMEL)
    if rate >= LEAST_EXCHANGE:
        rate, is_right = _best_sum(peers, EXCHANGE_NUMEL)
    reason = "" if is_right else "the sum is wrong"
    return [examiner.found(name, rate, "MiB/s", "at least", LEAST_EXCHANGE, reason=reason)]


def _best_sum(peers: Peers, numel: int) -> tuple[float, bool]:
    """Of a few tries, since a link that is only shared for a moment is good; all members stop after the same one."""
    rate, is_right = _sum(peers, numel)
    for _ in range(MORE_TRIES):
        if rate >= LEAST_EXCHANGE:
            break
        again, is_right_again = _sum(peers, numel)
        rate, is_right = max(rate, again), is_right and is_right_again
    return rate, is_right


def _sum(peers: Peers, numel: int) -> tuple[float, bool]:
    """MiB a second of the slowest member, and whether the sum is right here."""
    tensor = torch.ones(numel, device=peers.device)
    peers.meet()
    started = time.monotonic()
    distributed.all_reduce(tensor)
    is_right = bool((tensor == peers.world_size).all())
    slowest_s = max(seconds for (seconds,) in peers.all_of([time.monotonic() - started]))
    return tensor.nbytes / MEBIBYTE / slowest_s, is_right


def _device(examiner: _Examiner) -> Check:
    """The same product twice has the same bits, and all of them are numbers."""
    device = examiner.peers.device
    generator = torch.Generator().manual_seed(7)
    left, right = (torch.rand(SIDE, SIDE, generator=generator).to(device) for _ in range(2))
    first, second = left @ right, left @ right
    differing = int((first != second).sum() + (~first.isfinite()).sum())
    return examiner.found("wrong numbers of the device", differing, "of a product", "at most", 0)


def _disk(examiner: _Examiner, *, needed: int) -> list[Check]:
    """Where shards are written before they go to the store."""
    folder = Path(tempfile.gettempdir())
    chunk, started, written = os.urandom(CHUNK_MIB * MEBIBYTE), time.monotonic(), 0
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            while written < DISK_MIB and time.monotonic() - started < DISK_S:
                file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                written += CHUNK_MIB
        reason = ""
    except OSError as error:
        reason = f"{folder} cannot be written ({error.strerror}); free space there or set TMPDIR"
    rate = written / (time.monotonic() - started)
    free = shutil.disk_usage(folder).free
    return [
        examiner.found("writing temporary files", rate, "MiB/s", "at least", LEAST_DISK, reason=reason),
        examiner.found("room for a shard", free / MEBIBYTE, "MiB", "at least", needed / MEBIBYTE),
    ]


def _store(examiner: _Examiner, store: ObjectStore) -> list[Check]:
    """There and back again, unaltered; and whether its clock agrees."""
    folder = f"preflight-{uuid.uuid4().hex}"
    content, started, rate, skew_s, reason = os.urandom(MEBIBYTE), time.monotonic(), 0.0, 0.0, ""
    try:
        patiently(lambda: store.put(f"{folder}/probe", content), patience_s=STORE_PATIENCE_S)
        is_same = patiently(lambda: store.get(f"{folder}/probe"), patience_s=STORE_PATIENCE_S) == content
        rate = 2 / (time.monotonic() - started)
        (entry,) = store.entries(folder)
        skew_s = abs(time.time() - entry.modified_s)
        store.delete(folder)
        reason = "" if is_same else "what comes back is not what was written"
    except ArtifactError as error:
        reason = str(error)
    return [
        examiner.found("checkpoints there and back", rate, "MiB/s", "at least", LEAST_STORE, reason=reason),
        examiner.found("clock beside the store's", skew_s, "s", "at most", MOST_CLOCK_S),
    ]


def _shard_bytes(recipe: Recipe, stage: str, world_size: int) -> int:
    return STATE_BYTES * learning_weights(network_config(recipe.model), recipe.stage(stage)) // world_size

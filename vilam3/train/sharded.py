"""Checkpoints of a gang in a folder or in S3: a shard a member, whole weights by name, the manifest last.

    <run>/owner.json                          who writes here now
    <run>/step-00000300/shard-00000-of-00004.safetensors
    <run>/step-00000300/shard-00000-of-00004.json     SHA-256 and tensors of that shard
    <run>/step-00000300/manifest.json         all of the above; without it the others do not count

No file knows how the model was divided, so a gang of another size or strategy goes on from it as it is. Members write
while the next steps are computed; the leader learns from the store itself, not from the members, that all have written.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vilam3.artifacts import sha256_file
from vilam3.errors import ArtifactError, NotFoundError, OutOfReachError, SupersededError
from vilam3.objects import ObjectStore
from vilam3.scratch import scratch
from vilam3.train.peers import Peers
from vilam3.train.state import KEPT, Position, validations
from vilam3.train.strategy import KINDS, Kind, Strategy

MANIFEST, OWNER = "manifest.json", "owner.json"
PATIENCE_S = 300.0  # how long a store that is out of reach is awaited
COMMIT_S = 1800.0  # how long the leader waits for the shards of the others
log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What one member wrote; `tensors` are keys and shapes in the order in which they are read."""

    name: str
    sha256: str
    tensors: tuple[tuple[str, tuple[int, ...]], ...]


class Checkpoints:
    """The checkpoints of one run; what is public is called by all members together, if it does not say otherwise."""

    def __init__(self, store: ObjectStore, *, run: str, inputs_digest: str, peers: Peers) -> None:
        """Take the run over: whoever wrote here before stops at its next checkpoint."""
        self._store = store
        self._run = run
        self._inputs = inputs_digest
        self._peers = peers
        self._token = uuid.uuid4().hex
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Position] | None = None
        self.stalled_s = 0.0
        if peers.leads:
            patiently(lambda: store.put(f"{run}/{OWNER}", json.dumps({"token": self._token}).encode()))
            self._sweep()
        peers.meet()

    def save(self, strategy: Strategy, position: Position, *, first: Callable[[], object] | None = None) -> None:
        """Copy what this member is to write, and write it while training goes on, after it has done what goes `first`.

        So a checkpoint that counts has with it whatever the leader was to write before.
        """
        started = time.monotonic()
        self.settle()
        owners = _owners(strategy.shapes, self._peers.world_size)
        own: dict[str, Tensor] = {}
        for name, owner in owners.items():
            for kind in KINDS:
                value = strategy.full(name, kind)
                if owner == self._peers.rank:
                    own[f"{kind}/{name}"] = value.to("cpu", torch.float32, copy=True).contiguous()
        self._writing = self._writer.submit(self._write, own, position, first)
        self.stalled_s += time.monotonic() - started

    def settle(self) -> Position | None:
        """Wait until this member's part of the last checkpoint is written, for the leader until all of it counts.

        Returns:
            That checkpoint's; None where nothing was being written.

        Raises:
            ArtifactError: it could not be written.
            SupersededError: another process has taken the run over.
        """
        if self._writing is None:
            return None
        writing, self._writing = self._writing, None
        return writing.result()

    def is_settled(self) -> bool:
        """Whether `settle` would not wait; of one member alone."""
        return self._writing is None or self._writing.done()

    def resume(self, strategy: Strategy) -> Position:
        """Load the newest checkpoint that is whole; the start where there is none."""
        for step in self._peers.told(self._steps() if self._peers.leads else []):
            with scratch("vilam3-resume-") as folder:
                manifest = self._peers.told(self._manifest(step) if self._peers.leads else None)
                shards = _shards(manifest)
                files = self._fetched(step, shards, folder) if shards else None
                if min(flag for (flag,) in self._peers.all_of([float(files is not None)])):
                    assert files is not None
                    self._apply(strategy, shards, files)
                    return _position(manifest)
            if self._peers.leads:
                log.warning("checkpoint %s/%s is damaged; going back to the one before", self._run, _place(step))
                self._remove(step)
            self._peers.meet()
        return Position()

    def clear(self) -> None:
        """Remove all checkpoints, once the stage is finished."""
        self.settle()
        self._peers.meet()
        if self._peers.leads:
            for step in self._steps():
                self._remove(step)
            self._store.delete(f"{self._run}/{OWNER}")

    def close(self) -> None:
        """End the writing thread; what it is writing is not awaited."""
        self._writer.shutdown(wait=False, cancel_futures=True)

    def _write(self, own: Mapping[str, Tensor], position: Position, first: Callable[[], object] | None) -> Position:
        if first is not None:
            first()
        place = f"{self._run}/{_place(position.step)}"
        names = [f"shard-{rank:05d}-of-{self._peers.world_size:05d}" for rank in range(self._peers.world_size)]
        mine = names[self._peers.rank]
        with scratch("vilam3-save-") as folder:
            file = folder / mine
            try:
                save_file(dict(own), file)
                digest = sha256_file(file)
            except Exception as error:  # safetensors hides the disk's reason in an error of its own
                raise ArtifactError(
                    f"{file}: the shard cannot be written ({error}); free space there or set TMPDIR"
                ) from error
            patiently(lambda: self._store.put(f"{place}/{mine}.safetensors", file))
        tensors = tuple((key, tuple(value.shape)) for key, value in own.items())
        told = json.dumps(asdict(Shard(name=mine, sha256=digest, tensors=tensors))).encode()
        patiently(lambda: self._store.put(f"{place}/{mine}.json", told))
        if self._peers.leads:
            self._commit(place, names, position)
        return position

    def _commit(self, place: str, names: list[str], position: Position) -> None:
        shards = [json.loads(self._awaited(f"{place}/{name}.json")) for name in names]
        owner = json.loads(patiently(lambda: self._store.get(f"{self._run}/{OWNER}")))
        if owner["token"] != self._token:
            raise SupersededError(
                f"run {self._run}: another process writes its checkpoints now; this one ends at step {position.step}; "
                "let one of them work, or give the other a place of its own with --checkpoints"
            )
        manifest = {
            "inputs": self._inputs,
            "position": {
                "step": position.step,
                "seconds": position.seconds,
                "skipped": list(position.skipped),
                "validated": [[one.step, one.loss] for one in position.validated],
            },
            "losses": list(position.losses),
            "shards": shards,
        }
        patiently(lambda: self._store.put(f"{place}/{MANIFEST}", json.dumps(manifest).encode()))
        for old in self._steps()[KEPT:]:
            self._remove(old)

    def _awaited(self, key: str) -> bytes:
        end, pause_s = time.monotonic() + COMMIT_S, 0.02
        while True:
            try:
                return patiently(lambda: self._store.get(key))
            except NotFoundError:
                if time.monotonic() > end:
                    raise ArtifactError(f"{key}: not written within {COMMIT_S:.0f} s; look at that worker") from None
            time.sleep(pause_s)
            pause_s = min(1.0, pause_s * 1.5)

    def _places(self) -> dict[int, set[str]]:
        """Names of the files of every checkpoint, whole or not."""
        found: dict[int, set[str]] = {}
        for entry in patiently(lambda: list(self._store.entries(self._run))):
            folder, _, name = entry.key.removeprefix(f"{self._run}/").partition("/")
            if folder.startswith("step-") and name:
                found.setdefault(int(folder.removeprefix("step-")), set()).add(name)
        return found

    def _steps(self) -> list[int]:
        """Of the checkpoints that have a manifest, newest first."""
        return sorted((step for step, names in self._places().items() if MANIFEST in names), reverse=True)

    def _sweep(self) -> None:
        for step, names in self._places().items():
            if MANIFEST not in names:
                self._remove(step)

    def _remove(self, step: int) -> None:
        place = f"{self._run}/{_place(step)}"
        patiently(lambda: self._store.delete(f"{place}/{MANIFEST}"))  # first, so that half a checkpoint never counts
        patiently(lambda: self._store.delete(place))

    def _manifest(self, step: int) -> dict[str, Any] | None:
        try:
            found = json.loads(patiently(lambda: self._store.get(f"{self._run}/{_place(step)}/{MANIFEST}")))
            return found if found["inputs"] == self._inputs and found["position"]["step"] == step else None
        except (ValueError, KeyError, TypeError, NotFoundError):
            return None

    def _fetched(self, step: int, shards: list[Shard], folder: Path) -> dict[int, Path] | None:
        """This member's files by number of shard; None where one is missing or not as it was written."""
        found = {}
        for number, shard in enumerate(shards):
            if number % self._peers.world_size != self._peers.rank:
                continue
            file = found[number] = folder / shard.name
            key = f"{self._run}/{_place(step)}/{shard.name}.safetensors"
            try:
                patiently(lambda key=key, file=file: self._store.save(key, file))  # type: ignore[misc]  # of this turn
            except NotFoundError:
                return None
            if sha256_file(file) != shard.sha256:
                return None
        return found

    def _apply(self, strategy: Strategy, shards: list[Shard], files: Mapping[int, Path]) -> None:
        for number, shard in enumerate(shards):
            source = number % self._peers.world_size
            own: Any = safe_open(files[number], framework="pt") if source == self._peers.rank else None
            for key, shape in shard.tensors:
                value = own.get_tensor(key) if own is not None else torch.empty(shape)
                kind, _, name = key.partition("/")
                strategy.put(name, cast("Kind", kind), self._peers.hand_out(value, source=source))


def patiently(action: Callable[[], T], *, patience_s: float | None = None) -> T:
    """Do it, and again for a while, `PATIENCE_S` if not said otherwise, where the store is out of reach.

    Raises:
        OutOfReachError: it stayed so.
    """
    end, pause_s = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s), 0.5
    while True:
        try:
            return action()
        except OutOfReachError as error:
            if time.monotonic() > end:
                raise
            log.warning("%s; trying again", error)
        time.sleep(pause_s)
        pause_s = min(10.0, pause_s * 2)


def _place(step: int) -> str:
    return f"step-{step:08d}"


def _position(manifest: Mapping[str, Any]) -> Position:
    told = manifest["position"]
    return Position(
        step=told["step"],
        losses=tuple(manifest["losses"]),
        seconds=float(told["seconds"]),
        skipped=tuple(told.get("skipped", ())),
        validated=validations(told.get("validated", ())),
    )


def _shards(manifest: Mapping[str, Any] | None) -> list[Shard]:
    try:
        return [
            Shard(
                name=one["name"],
                sha256=one["sha256"],
                tensors=tuple((key, tuple(shape)) for key, shape in one["tensors"]),
            )
            for one in (manifest or {}).get("shards", ())
        ]
    except (KeyError, TypeError, ValueError):
        return []


def _owners(shapes: Mapping[str, tuple[int, ...]], world_size: int) -> dict[str, int]:
    """Who writes which weight: always the member with least so far."""
    load = [0] * world_size
    owners = {}
    for name, shape in shapes.items():
        owners[name] = load.index(min(load))
        load[owners[name]] += torch.Size(shape).numel()
    return owners

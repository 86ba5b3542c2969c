"""Where the files of shards come from: a folder as it is, or a store through a bounded cache on this machine's disk.

Whoever opens a shard reads all of it first and holds it against its SHA-256, then keeps that very file open: it may be
dropped from the cache meanwhile and is still there for who reads it. The cache is shared by all processes of a user;
what one fetches the others find. A file is in it under the digest of its content, so nothing in it is ever out of date.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from vilam3.data.shards import Shard
from vilam3.errors import ArtifactError, NotFoundError, RecipeError
from vilam3.objects import ObjectStore
from vilam3.train.sharded import patiently

CACHE_VARIABLE = "VILAM3_SHARD_CACHE_GIB"
GIB = 1 << 30
SHARE_OF_DISK = 4  # the cache takes one part in four where nothing else is said
TRIES = 2
FILE, PARTIAL = ".tar", ".partial"
log = logging.getLogger(__name__)


class ShardFiles(Protocol):
    """Opens shards; may be called from several threads and processes."""

    def open(self, shard: Shard) -> BinaryIO:
        """The verified file of a shard.

        Raises:
            NotFoundError: there is none.
            ArtifactError: it is damaged wherever it is read from, or out of reach.
        """
        ...

    def close(self) -> None:
        """Await no store any longer."""
        ...


class FolderShards:
    """Shards in a folder that this machine sees."""

    def __init__(self, folder: Path) -> None:
        """Read from `folder`."""
        self._folder = folder

    def open(self, shard: Shard) -> BinaryIO:
        """See `ShardFiles.open`."""
        path = self._folder / shard.name
        if not path.is_file():
            raise _missing(shard, str(self._folder))
        for _ in range(TRIES):
            if (found := _verified(path, shard)) is not None:
                return found
        raise _damaged(shard, str(self._folder))

    def close(self) -> None:
        """See `ShardFiles.close`."""


class FetchedShards:
    """Shards of a store, brought to a cache when they are opened."""

    def __init__(self, store: ObjectStore, *, at: str, folder: Path, limit_bytes: int) -> None:
        """Keep up to `limit_bytes` in `folder`, whoever fetched it; what was opened longest ago goes first.

        Args:
            store: Where the shards are.
            at: Its place, for messages.
            folder: Of the cache.
            limit_bytes: Files being fetched included.
        """
        self._store = store
        self._at = at
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._is_closed = False
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def open(self, shard: Shard) -> BinaryIO:
        """See `ShardFiles.open`."""
        path = self._folder / f"{shard.sha256}{FILE}"
        found = _verified(path, shard)
        if found is None:
            found = patiently(lambda: self._brought(shard, path))  # a store is awaited without holding up others
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)  # its age is since it was opened last
        return found

    def close(self) -> None:
        """See `ShardFiles.close`."""
        self._is_closed = True

    def _brought(self, shard: Shard, path: Path) -> BinaryIO:
        if self._is_closed:
            raise ArtifactError(f"shard {shard.name} of {self._at}: nobody asks for it any longer")
        with self._locked(path):
            return _verified(path, shard) or self._fetched(shard, path)

    def _fetched(self, shard: Shard, path: Path) -> BinaryIO:
        """Bring a shard, again where it came damaged; called by one process at a time."""
        partial = path.with_suffix(PARTIAL)
        try:
            for _ in range(TRIES):
                self._make_room(partial, shard.num_bytes)
                self._store.save(shard.name, partial)
                if (found := _verified(partial, shard)) is not None:
                    partial.replace(path)
                    return found
                log.warning("shard %s of %s came damaged", shard.name, self._at)
        except NotFoundError as error:
            raise _missing(shard, self._at) from error
        except OSError as error:
            raise ArtifactError(
                f"{self._folder}: {error.strerror}; free some room there, lower {CACHE_VARIABLE} or set TMPDIR"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        raise _damaged(shard, self._at)

    def _make_room(self, partial: Path, num_bytes: int) -> None:
        """Drop the oldest files until `partial` fits, and reserve its bytes, so that others count them."""
        with self._locked(self._folder / "room"):
            path = partial.with_suffix(FILE)
            path.unlink(missing_ok=True)  # damaged, or nobody would fetch it
            self._sweep()
            sizes = {file: _size(file) for file in self._folder.iterdir() if file.suffix in {FILE, PARTIAL}}
            used = sum(sizes.values())
            for file in sorted((file for file in sizes if file.suffix == FILE), key=_age):
                if used + num_bytes <= self._limit_bytes:
                    break
                file.unlink(missing_ok=True)
                used -= sizes[file]
            with partial.open("wb") as reserved:
                reserved.truncate(num_bytes)

    def _sweep(self) -> None:
        """Remove what killed processes left half fetched: nobody holds its lock."""
        for file in self._folder.glob(f"*{PARTIAL}*"):  # boto3 writes beside its target, under a longer name
            with contextlib.suppress(BlockingIOError), self._locked(file, wait=False):
                file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, path: Path, *, wait: bool = True) -> Iterator[None]:
        """Be alone with a file, and with the few others that share its lock; a lock ends with its process."""
        with (self._folder / f"{path.name[:2]}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield


def cache_limit(folder: Path) -> int:
    """Bytes that shards may take on this machine: as the environment says, or a share of the disk.

    Raises:
        RecipeError: the environment says no number.
    """
    told = os.environ.get(CACHE_VARIABLE, "")
    if not told:
        return shutil.disk_usage(folder).total // SHARE_OF_DISK
    try:
        limit = int(float(told) * GIB)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise RecipeError(f"{CACHE_VARIABLE}={told}: must be a positive number of GiB")
    return limit


def _verified(path: Path, shard: Shard) -> BinaryIO | None:
    """The file, open, if it is what the index says."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return None
    has_size = os.fstat(stream.fileno()).st_size == shard.num_bytes
    if has_size and hashlib.file_digest(stream, "sha256").hexdigest() == shard.sha256:
        stream.seek(0)
        return stream
    stream.close()
    return None


def _size(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_size
    return 0


def _age(file: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_mtime
    return 0.0


def _missing(shard: Shard, at: str) -> NotFoundError:
    return NotFoundError(
        f"shard {shard.name}: is not in {at}, but in the index; copy the corpus again, shards included"
    )


def _damaged(shard: Shard, at: str) -> ArtifactError:
    return ArtifactError(
        f"shard {shard.name} of {at}: is not the one of the index (SHA-256 {shard.sha256[:12]}...), read "
        f"{TRIES} times; copy it there again from where the corpus was written"
    )

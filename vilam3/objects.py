"""Named bytes that several processes share: a folder (``file://``) or an S3 bucket (``s3://``).

Keys are relative paths with ``/`` between their parts. It knows nothing of what is kept; whoever makes keys sees to it
that nothing about a patient is in them.
"""

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from vilam3.artifacts import whole_file
from vilam3.errors import ArtifactError, NotFoundError, UserError

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One object of a listing; `modified_s` is Unix time."""

    key: str
    num_bytes: int
    modified_s: float


class ObjectStore(Protocol):
    """Where named bytes are kept; every method may be called from several threads and processes."""

    def put(self, key: str, content: bytes | Path) -> None:
        """Write an object whole or not at all, in place of an earlier one.

        Raises:
            ArtifactError: the store refuses or is out of reach.
        """
        ...

    def put_new(self, key: str, content: bytes) -> bool:
        """Write an object unless there is one of that key; returns whether this call wrote it.

        Not every S3 server does this in one step: of two calls at the same time both may be told yes, and the later
        one's bytes stay. Where that matters see `vilam3.intake.turn`.

        Raises:
            ArtifactError: the store refuses or is out of reach.
        """
        ...

    def get(self, key: str) -> bytes:
        """The bytes of an object.

        Raises:
            NotFoundError: there is none of that key.
            ArtifactError: the store refuses or is out of reach.
        """
        ...

    def save(self, key: str, path: Path) -> None:
        """Write an object to a file without holding it in memory.

        Raises:
            NotFoundError: there is none of that key.
            ArtifactError: the store refuses or is out of reach.
        """
        ...

    def entry(self, key: str) -> Entry | None:
        """Size and time of an object, or None where there is none of that key.

        Raises:
            ArtifactError: the store refuses or is out of reach.
        """
        ...

    def folders(self) -> list[str]:
        """Names of the folders directly below the store's own, in order.

        Raises:
            ArtifactError: the store refuses or is out of reach.
        """
        ...

    def copy(self, source: str, target: str) -> None:
        """Make another object of the same bytes.

        Raises:
            NotFoundError: there is no such source.
            ArtifactError: the store refuses or is out of reach.
        """
        ...

    def delete(self, prefix: str) -> None:
        """Remove the object of this key and all below it; harmless when there is none.

        Raises:
            ArtifactError: the store refuses or is out of reach.
        """
        ...

    def entries(self, prefix: str) -> Iterator[Entry]:
        """All objects below a folder.

        Raises:
            ArtifactError: the store refuses or is out of reach.
        """
        ...


class FolderStore:
    """Objects as private files below a folder."""

    def __init__(self, root: Path) -> None:
        """Keep files below `root`, which belongs to this store alone.

        Raises:
            UserError: the folder cannot be made.
        """
        self._root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
            root.chmod(0o700)
        except OSError as error:
            raise UserError(f"store {root}: {error.strerror}; choose a directory this user may write to") from error

    def put(self, key: str, content: bytes | Path) -> None:
        """See `ObjectStore.put`."""
        path = self._path(key)
        with self._translated(), whole_file(path, durable=False) as partial:
            if isinstance(content, bytes):
                partial.write_bytes(content)
            else:
                shutil.copyfile(content, partial)
            os.utime(partial, ns=(time.time_ns(),) * 2)  # the kernel's own stamps may be milliseconds old

    def put_new(self, key: str, content: bytes) -> bool:
        """See `ObjectStore.put_new`; here it is one step, whoever else tries."""
        path = self._path(key)
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
            partial = Path(name)
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(content)
                path.hardlink_to(partial)
            except FileExistsError:
                return False
            finally:
                partial.unlink(missing_ok=True)
        return True

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        with self._translated():
            return self._path(key).read_bytes()

    def save(self, key: str, path: Path) -> None:
        """See `ObjectStore.save`."""
        with self._translated():
            shutil.copyfile(self._path(key), path)

    def entry(self, key: str) -> Entry | None:
        """See `ObjectStore.entry`."""
        try:
            with self._translated():
                stat = self._path(key).stat()
        except NotFoundError:
            return None
        return Entry(key=key, num_bytes=stat.st_size, modified_s=stat.st_mtime_ns / 1e9)

    def folders(self) -> list[str]:
        """See `ObjectStore.folders`."""
        with self._translated():
            return sorted(path.name for path in self._root.iterdir() if path.is_dir())

    def copy(self, source: str, target: str) -> None:
        """See `ObjectStore.copy`."""
        self.put(target, self._path(source))

    def delete(self, prefix: str) -> None:
        """See `ObjectStore.delete`."""
        path = self._path(prefix)
        with self._translated():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def entries(self, prefix: str) -> Iterator[Entry]:
        """See `ObjectStore.entries`."""
        for path in sorted(self._path(prefix).rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                if path.is_file() and not path.name.startswith("."):
                    stat = path.stat()
                    key = path.relative_to(self._root).as_posix()
                    yield Entry(key=key, num_bytes=stat.st_size, modified_s=stat.st_mtime_ns / 1e9)

    def _path(self, key: str) -> Path:
        return self._root / checked(key)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise NotFoundError("store: there is no object of that key; it was deleted or never written") from error
        except OSError as error:
            raise ArtifactError(f"store {self._root}: {error.strerror}; mend the folder and try again") from error


def open_store(uri: str) -> ObjectStore:
    """The store of a URI: ``file:///folder`` or ``s3://bucket/prefix``.

    Raises:
        UserError: it is neither.
    """
    from vilam3.s3 import S3Store  # noqa: PLC0415 - it is one of these stores

    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/"):
        return FolderStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        return S3Store(parts.netloc, parts.path)
    raise UserError(f"store {uri}: not understood; write file:///folder or s3://bucket/prefix")


def checked(key: str) -> str:
    """The key, if it cannot lead elsewhere."""
    if not _KEY.fullmatch(key):
        raise NotFoundError("store: there is no object of that key; keys are letters, digits, '.', '_', '-' and '/'")
    return key

"""Outputs written whole or not at all, and the digests that name them; knows nothing of what is written."""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vilam3.errors import ArtifactError

CHUNK_BYTES = 1 << 20
MANY_FILES = 256
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


@contextlib.contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path` in one step, on failure nothing remains.

    Args:
        path: What to write.
        durable: Wait until the disk has it; False inside a `whole_directory`, which waits once for all its files.

    Raises:
        ArtifactError: the file system is full, read-only or refuses.
    """
    with _translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    partial = Path(name)
    try:
        with _translated(path):
            yield partial
            if durable:
                _flush(partial)
            partial.chmod(0o644)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Like `whole_file` for a directory; an existing `path` is replaced only when the new one is complete."""
    with _translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        with _translated(path):
            yield partial
            _flush_tree(partial)
            partial.chmod(0o755)
            _swap(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - whatever json takes
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_tree(root: Path) -> str:
    """SHA-256 over the relative names and contents of all files below `root`, in sorted order."""
    digest = hashlib.sha256()
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(root).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _swap(partial: Path, path: Path) -> None:
    """Put `partial` at `path`; what was there leaves in the same step, so that no reader ever finds nothing."""
    retired = partial.with_name(partial.name + ".old")
    while True:
        try:
            if not path.exists():
                partial.rename(path)
                return
            if _exchange(partial, path):
                _remove(partial)
                return
            path.rename(retired)
            _remove(retired)
        except OSError as error:  # another writer put something there, or took it away, since we looked: look again
            if error.errno not in {errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST} or not partial.exists():
                raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EPERM}:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _flush_tree(root: Path) -> None:
    files = [file for file in root.rglob("*") if file.is_file()]
    if len(files) > MANY_FILES:
        os.sync()  # flushing everything once costs less than thousands of single files
        return
    for file in files:
        _flush(file)


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
            message = f"{path}: {error.strerror}; nothing was written; free space or choose another place and run again"
            raise ArtifactError(message) from error
        raise

"""Temporary folders that hold patients' data, and so must not outlive their process, even one that was killed outright.

Beside each folder lies a file that its process keeps locked. The first folder that a process makes in a place is the
occasion to remove those there whose file nobody locks.
"""

import contextlib
import fcntl
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PREFIX = "vilam3-"
HELD = ".held"
YOUNG_S = 60.0  # a file so young may be about to be locked

_swept: set[Path] = set()
_sweeping = threading.Lock()


@contextlib.contextmanager
def scratch(prefix: str = PREFIX, *, folder: Path | None = None) -> Iterator[Path]:
    """An empty folder until the end of the block, or, after a kill, until the next of its kind is made beside it.

    Args:
        prefix: Of its name, which begins with `PREFIX`.
        folder: Where it is made; the directory for temporary files if not given.

    Raises:
        OSError: it cannot be made there.
    """
    parent = (folder or Path(tempfile.gettempdir())).absolute()
    _sweep_once(parent)
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    beside = path.with_name(path.name + HELD)
    try:
        with beside.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        beside.unlink(missing_ok=True)  # last, so that a kill leaves nothing without it


def sweep(folder: Path) -> list[Path]:
    """Remove what killed processes left in `folder`, and say what that was.

    What lies inside may be in use by another process than the one that made it: then all of it stays.
    """
    removed = []
    for held in sorted(folder.glob(f"{PREFIX}*{HELD}")):
        left = held.with_name(held.name.removesuffix(HELD))
        with contextlib.suppress(OSError), contextlib.ExitStack() as locks:
            if _taken(held, locks) and all(_taken(inner, locks) for inner in left.rglob(f"{PREFIX}*{HELD}")):
                shutil.rmtree(left, ignore_errors=True)
                held.unlink(missing_ok=True)
                removed.append(left)
    return removed


def _sweep_once(folder: Path) -> None:
    with _sweeping:
        if folder not in _swept:
            _swept.add(folder)
            sweep(folder)


def _taken(held: Path, locks: contextlib.ExitStack) -> bool:
    """Whether nobody else had it."""
    if time.time() - held.stat().st_mtime < YOUNG_S:
        return False
    file: IO[bytes] = locks.enter_context(held.open("rb"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

"""What is loaded from files once for all who name the same files, for as long as one of them keeps it."""

import threading
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")

_lock = threading.Lock()
_held: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()


def shared(make: Callable[[], T], *, files: Iterable[Path], name: Hashable) -> T:
    """What `make` returns, or what it returned before for these files while they are unchanged.

    Args:
        make: Opens or loads it.
        files: What it is made from; a file that is not there is one that may come.
        name: What else it depends on.
    """
    key = (name, tuple(_state(path) for path in files))
    with _lock:
        made: T | None = _held.get(key)
        if made is None:
            made = make()
            _held[key] = made
        return made


def _state(path: Path) -> tuple[str, int, int]:
    if not path.is_file():
        return str(path), 0, 0
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size

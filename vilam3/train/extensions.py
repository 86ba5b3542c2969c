"""Locks of torch's compiler of extensions: a process that is killed while it compiles leaves one for ever.

Every later start would wait for it without a word (pytorch/pytorch#189245). Whoever holds such a lock keeps its file
open, so one that no process has open is nobody's.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
from torch.utils import cpp_extension

LOCK = "lock"  # as torch.utils.file_baton names it
FOLDER_VARIABLE = "TORCH_EXTENSIONS_DIR"
log = logging.getLogger(__name__)


def release_stale_locks(folder: Path | None = None) -> tuple[Path, ...]:
    """Remove locks of processes that are gone, and return them; to be called before anything is compiled.

    Args:
        folder: Where extensions are built, which only this machine uses; None for torch's own choice.
    """
    root = folder or Path(os.environ.get(FOLDER_VARIABLE) or cpp_extension.get_default_build_root())
    locks = {path.resolve() for path in root.rglob(LOCK) if path.is_file()}
    stale = sorted(locks - set(_open_files())) if locks else []
    for path in stale:
        log.warning("extension %s: the process that compiled it is gone; its lock is removed", path.parent.name)
        path.unlink(missing_ok=True)
    return tuple(stale)


def _open_files() -> Iterator[Path]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended, or is another user's
            for file in process.open_files():
                yield Path(file.path)

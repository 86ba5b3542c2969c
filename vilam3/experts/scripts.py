"""Python modules that lie inside bundles, kept apart: every published bundle calls its package ``scripts``."""

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

# Import state belongs to the whole process, so bundles take turns; only parsing a config happens under this lock.
_TURN = threading.RLock()


class BundleScripts:
    """The modules of one bundle.

    While `importable` is active, the bundle's directory comes first on the path and its top-level names mean its own
    modules; afterwards they mean again whatever they meant before. Objects made meanwhile keep their modules.
    """

    def __init__(self, root: Path) -> None:
        """Look which top-level names the directory defines."""
        self._root = root
        self._names = frozenset(_top_level_names(root))
        self._loaded: dict[str, ModuleType] = {}

    @contextlib.contextmanager
    def importable(self) -> Iterator[None]:
        """Make the bundle's modules importable in this block."""
        with _TURN:
            displaced = self._take()
            sys.modules.update(self._loaded)
            sys.path.insert(0, str(self._root))
            importlib.invalidate_caches()
            try:
                yield
            finally:
                self._loaded = self._take()
                sys.modules.update(displaced)
                sys.path.remove(str(self._root))

    def _take(self) -> dict[str, ModuleType]:
        mine = [name for name in sys.modules if name.partition(".")[0] in self._names]
        return {name: sys.modules.pop(name) for name in mine}


def _top_level_names(root: Path) -> Iterator[str]:
    for child in root.iterdir():
        if child.suffix == ".py":
            yield child.stem
        elif child.is_dir() and next(child.glob("*.py"), None) is not None:
            yield child.name

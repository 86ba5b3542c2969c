"""What a server is made of is not looked through for garbage; what comes later is."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from serving import garbage


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


class Knot:
    """Refers to itself, so that only a search finds it."""

    def __init__(self) -> None:
        """Tie it."""
        self.itself = self


def test_only_what_comes_later_is_looked_through() -> None:
    before, known = Knot(), gc.get_freeze_count()
    garbage.settle()
    assert gc.get_freeze_count() > known
    assert not any(one is before for one in gc.get_objects())
    seen = weakref.ref(Knot())
    gc.collect()
    assert seen() is None

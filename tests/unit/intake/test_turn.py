"""Rules of turns: one holder at a time, also where the store makes an object twice and where a holder was killed."""

import threading
import time
from pathlib import Path

import pytest

from vilam3.errors import BusyError, SupersededError
from vilam3.intake.turn import Times, Turns
from vilam3.objects import FolderStore


class LooksFirst:
    """A store that looks whether an object is there and writes it a while later, as some S3 servers do."""

    def __init__(self, root: Path) -> None:
        """Keep objects below `root`."""
        self._inner = FolderStore(root)

    def put_new(self, key: str, content: bytes) -> bool:
        """Two at the same time are both told yes."""
        if self._inner.entry(key) is not None:
            return False
        time.sleep(0.05)
        self._inner.put(key, content)
        return True

    def __getattr__(self, name: str) -> object:
        """All else as the folder does it."""
        return getattr(self._inner, name)


@pytest.mark.parametrize("looks_first", [False, True])
def test_one_holds_the_turn_at_a_time(tmp_path: Path, *, looks_first: bool) -> None:
    inside, most, done = 0, 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal inside, most, done
        store = LooksFirst(tmp_path) if looks_first else FolderStore(tmp_path)
        turns = Turns(store, times=Times(settle_s=0.2, patience_s=60.0))  # type: ignore[arg-type]  # by __getattr__
        with turns.taken():
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02)
            with lock:
                inside -= 1
                done += 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, done) == (1, 12)


def test_old_turns_are_removed(tmp_path: Path) -> None:
    turns = Turns(FolderStore(tmp_path), times=Times())
    for _ in range(40):
        with turns.taken():
            pass
    assert len(list((tmp_path / "turn").iterdir())) < 20


def test_who_waits_in_vain_is_told(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with Turns(store, times=Times()).taken(), pytest.raises(BusyError, match="another start is under way"):  # noqa: SIM117 - the second must fail
        with Turns(store, times=Times(patience_s=0.3)).taken():
            pass


def test_a_holder_that_never_ends_is_passed_after_its_lease(tmp_path: Path) -> None:
    store, times = FolderStore(tmp_path), Times(lease_s=1.0, patience_s=10.0)
    killed = Turns(store, times=times)
    assert killed._take("of one that was killed") == 1
    began = time.monotonic()
    with Turns(store, times=times).taken():
        assert time.monotonic() - began > 0.9


def test_a_holder_that_took_too_long_does_not_start(tmp_path: Path) -> None:
    with Turns(FolderStore(tmp_path), times=Times(lease_s=0.4)).taken() as turn:
        assert turn is not None
        turn.check()
        time.sleep(0.3)
        with pytest.raises(SupersededError, match="took too long"):
            turn.check()


def test_one_that_comes_long_after_its_number_has_gone_gives_way(tmp_path: Path) -> None:
    """It saw turn 3 as the last, slept, and makes turn 4, which was held and removed since."""
    store = FolderStore(tmp_path)
    late = Turns(store, times=Times())
    store.put("turn/00000030.json", b"{}")
    late._last = iter([3, 30]).__next__  # type: ignore[method-assign]  # what it sees before and after its sleep
    store.put("turn/00000003.json", b'{"token": "a", "until_s": 0, "is_over": true}')
    assert late._take("late") is None
    assert store.entry("turn/00000004.json") is None

"""Shards are verified before they are used, fetched once a machine, and held within a bound."""

import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vilam3.data.shards import Shard
from vilam3.errors import ArtifactError, NotFoundError, OutOfReachError, RecipeError
from vilam3.objects import FolderStore
from vilam3.train import sharded
from vilam3.train.shard_files import CACHE_VARIABLE, GIB, FetchedShards, FolderShards, cache_limit

FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
SIZE = 10_000


class Store(FolderStore):
    """A folder that counts what is read, and can be made to fail as stores do."""

    def __init__(self, root: Path) -> None:
        """Sound."""
        super().__init__(root)
        self.root = root
        self.saved: list[str] = []
        self.away = 0
        self.slow_s = 0.0
        self.damages = 0

    def save(self, key: str, path: Path) -> None:
        """In two halves."""
        if self.away:
            self.away -= 1
            raise OutOfReachError("store: out of reach")
        self.saved.append(key)
        with (self.root / "log").open("a") as log:
            log.write(f"{key}\n")
        content = self.get(key)
        if self.damages:
            self.damages -= 1
            content = b"x" + content[1:]
        path.write_bytes(content[: SIZE // 2])
        time.sleep(self.slow_s)
        path.write_bytes(content)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, count: int) -> list[Shard]:
    shards = []
    for number in range(count):
        content = hashlib.sha256(bytes([number])).digest() * (SIZE // 32)
        content += b"." * (SIZE - len(content))
        name = f"vqa-{number:05d}.tar"
        (store.root / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        shards.append(Shard(name=name, sha256=digest, num_bytes=SIZE, num_samples=1))
    return shards


def cache(store: Store, folder: Path, *, shards: int = 4) -> FetchedShards:
    return FetchedShards(store, at="s3://b/shards", folder=folder, limit_bytes=shards * SIZE)


def read(files: FetchedShards | FolderShards, shard: Shard) -> bytes:
    with files.open(shard) as stream:
        stream.seek(0)
        return stream.read()


def held(folder: Path) -> int:
    """Bytes of everything in the cache."""
    return sum(file.stat().st_size for file in folder.iterdir())


def test_a_shard_is_fetched_once_and_found_by_the_next(store: Store, tmp_path: Path) -> None:
    (shard,) = put(store, 1)
    for _ in range(3):
        assert read(cache(store, tmp_path / "cache"), shard) == (store.root / shard.name).read_bytes()
    assert store.saved == [shard.name]


def test_the_cache_keeps_within_its_bound_and_what_was_used_last(store: Store, tmp_path: Path) -> None:
    shards = put(store, 6)
    files, folder = cache(store, tmp_path / "cache"), tmp_path / "cache"
    for shard in shards[:4]:
        read(files, shard)
        time.sleep(0.01)
    read(files, shards[0])  # used again, so the second is the oldest now
    for shard in shards[4:]:
        read(files, shard)
        assert held(folder) <= 4 * SIZE
    store.saved.clear()
    for shard in (shards[0], shards[3], shards[4], shards[5]):
        read(files, shard)
    assert not store.saved


def test_who_has_a_shard_open_reads_on_when_it_is_dropped(store: Store, tmp_path: Path) -> None:
    shards = put(store, 3)
    files = cache(store, tmp_path / "cache", shards=1)
    with files.open(shards[0]) as stream:
        for other in shards[1:]:
            read(files, other)
        assert os.pread(stream.fileno(), SIZE, 0) == (store.root / shards[0].name).read_bytes()


def test_a_shard_that_came_damaged_is_fetched_again_once(store: Store, tmp_path: Path) -> None:
    (shard,) = put(store, 1)
    store.damages = 1
    assert read(cache(store, tmp_path / "cache"), shard)
    assert len(store.saved) == 2


def test_a_shard_that_is_damaged_in_the_store_is_named_and_not_kept(store: Store, tmp_path: Path) -> None:
    shards = put(store, 2)
    (store.root / shards[0].name).write_bytes(b"?" * SIZE)
    (store.root / shards[1].name).write_bytes(b"cut")
    for shard in shards:
        with pytest.raises(ArtifactError, match=rf"shard {shard.name} of s3://b/shards: is not the one of the index"):
            cache(store, tmp_path / "cache").open(shard)
    assert len(store.saved) == 4
    assert held(tmp_path / "cache") == 0
    with pytest.raises(ArtifactError, match="is not the one of the index"):
        FolderShards(store.root).open(shards[0])


def test_a_shard_that_was_damaged_in_the_cache_is_fetched_again(store: Store, tmp_path: Path) -> None:
    (shard,) = put(store, 1)
    files = cache(store, tmp_path / "cache", shards=1)
    read(files, shard)
    (kept,) = (tmp_path / "cache").glob("*.tar")
    kept.write_bytes(b"!" + kept.read_bytes()[1:])
    assert read(files, shard) == (store.root / shard.name).read_bytes()
    assert len(store.saved) == 2


def test_a_shard_that_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    (shard,) = put(store, 1)
    (store.root / shard.name).unlink()
    for files in (cache(store, tmp_path / "cache"), FolderShards(store.root)):
        with pytest.raises(NotFoundError, match=f"shard {shard.name}: is not in .*, but in the index"):
            files.open(shard)


def test_a_store_that_is_away_is_awaited_for_a_while(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shard,) = put(store, 1)
    store.away = 2
    assert read(cache(store, tmp_path / "cache"), shard)
    monkeypatch.setattr(sharded, "PATIENCE_S", 0.1)
    store.away = 1000
    (other,) = put(store, 2)[1:]
    with pytest.raises(OutOfReachError):
        cache(store, tmp_path / "cache").open(other)
    assert held(tmp_path / "cache") == SIZE


def test_who_is_closed_awaits_no_store(store: Store, tmp_path: Path) -> None:
    (shard,) = put(store, 1)
    store.away = 1000
    files = cache(store, tmp_path / "cache")
    with ThreadPoolExecutor(1) as opener:
        opening = opener.submit(files.open, shard)
        while store.away == 1000:
            time.sleep(0.01)
        files.close()
        with pytest.raises(ArtifactError, match="nobody asks for it any longer"):
            opening.result(30)


def _reading(store: Store, folder: Path, shards: Sequence[Shard]) -> None:
    files = cache(store, folder, shards=3)
    for shard in shards:
        assert read(files, shard) == (store.root / shard.name).read_bytes()
        assert held(folder) <= 3 * SIZE
    os._exit(0)


def test_processes_share_what_one_has_fetched_and_the_bound(store: Store, tmp_path: Path) -> None:
    shards = put(store, 2)
    store.slow_s = 0.2
    readers = [FORK.Process(target=_reading, args=(store, tmp_path / "cache", shards)) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert [reader.exitcode for reader in readers] == [0] * 4
    assert sorted((store.root / "log").read_text().split()) == [shard.name for shard in shards]


def test_who_is_killed_while_fetching_holds_up_nobody_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    shards = put(store, 2)
    store.slow_s = 600.0
    reader = FORK.Process(target=_reading, args=(store, tmp_path / "cache", shards[:1]))
    reader.start()
    while not list((tmp_path / "cache").glob("*.partial")):
        time.sleep(0.01)
    assert reader.pid is not None
    os.kill(reader.pid, signal.SIGKILL)
    reader.join(60)
    assert list((tmp_path / "cache").glob("*.partial"))
    (tmp_path / "cache" / "00aa.partial.B0t0").write_bytes(b"of one that nobody wants any more")
    store.slow_s = 0.0
    files = cache(store, tmp_path / "cache")
    assert read(files, shards[1]) == (store.root / shards[1].name).read_bytes()
    assert not list((tmp_path / "cache").glob("*.partial*"))
    assert read(files, shards[0]) == (store.root / shards[0].name).read_bytes()


def test_the_bound_is_what_the_environment_says_or_a_quarter_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    assert cache_limit(tmp_path) > 0
    monkeypatch.setenv(CACHE_VARIABLE, "0.5")
    assert cache_limit(tmp_path) == GIB // 2
    for wrong in ("0", "-1", "much", "nan", "inf"):
        monkeypatch.setenv(CACHE_VARIABLE, wrong)
        with pytest.raises(RecipeError, match=f"{CACHE_VARIABLE}={wrong}: must be a positive number"):
            cache_limit(tmp_path)

"""What a stage reads of a corpus in shards: opened in the background, in the order in which steps will need them."""

import io
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import accumulate
from os import getuid
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from vilam3.data.mixture import Pick
from vilam3.data.sample import Sample
from vilam3.data.shards import OpenShard, Shard, ShardIndex, read_index
from vilam3.data.windows import WindowedMixture
from vilam3.errors import DataError, RecipeError
from vilam3.objects import open_store
from vilam3.scratch import scratch
from vilam3.train.batches import Encoding, Examples, Pictures
from vilam3.train.shard_files import CACHE_VARIABLE, GIB, FetchedShards, FolderShards, ShardFiles, cache_limit

OPENERS = 4  # shards that one process fetches and verifies at a time


class Shards:
    """The shards of a corpus by name, each opened once and kept while it is wanted; held-out ones to the end."""

    def __init__(self, index: ShardIndex, files: ShardFiles) -> None:
        """Open nothing yet."""
        self._files = files
        self._known = {shard.name: shard for shard in index.shards()}
        self._lasting = {shard.name for shards in index.held_out.values() for shard in shards}
        self._opener = ThreadPoolExecutor(OPENERS, thread_name_prefix="shards")
        self._opened: dict[str, Future[OpenShard]] = {}
        self._changing = threading.Lock()

    def __getitem__(self, name: str) -> OpenShard:
        """The shard, as soon as it is there.

        Raises:
            VilaM3Error: see `ShardFiles.open` and `OpenShard`.
        """
        return self._begun(name).result()

    def expect(self, names: Sequence[str]) -> None:
        """Open these in this order and let go of all others that are learned from."""
        self._let_go({*names, *self._lasting})
        for name in names:
            self._begun(name)

    def close(self) -> None:
        """Let go of all of them; what is being fetched is not awaited."""
        self._files.close()
        self._let_go(frozenset())
        self._opener.shutdown(wait=False, cancel_futures=True)

    def _let_go(self, wanted: Collection[str]) -> None:
        with self._changing:
            gone = [self._opened.pop(name) for name in set(self._opened).difference(wanted)]
        for opened in gone:
            if not opened.cancel():
                opened.add_done_callback(_close)

    def _begun(self, name: str) -> "Future[OpenShard]":
        with self._changing:
            if name not in self._opened:
                self._opened[name] = self._opener.submit(_open, self._files, self._known[name])
            return self._opened[name]


class ShardedSamples:
    """The samples of one dataset by index."""

    def __init__(self, parts: Sequence[Shard], shards: Shards) -> None:
        """`parts` are its shards in order."""
        self._parts = parts
        self._shards = shards
        self._ends = list(accumulate(part.num_samples for part in parts))

    def __len__(self) -> int:
        """Number of samples."""
        return self._ends[-1]

    def __getitem__(self, index: int, /) -> Sample:
        """One of them; it is awaited."""
        number = bisect_right(self._ends, index)
        part = self._parts[number]
        return self._shards[part.name].sample(index - self._ends[number] + part.num_samples)


class ShardedPictures(Pictures):
    """Pictures by ``<shard>/<member>``, decoded as those of a folder are."""

    def __init__(self, at: str, shards: Shards, *, size: int) -> None:
        """`at` is for messages."""
        super().__init__(at, size=size)
        self._shards = shards

    def _opened(self, name: str) -> BinaryIO:
        shard, _, member = name.partition("/")
        return io.BytesIO(self._shards[shard].picture(member))


class Stream:
    """The order of a sharded corpus, which has the shards of what it gives and of what comes next opened."""

    def __init__(self, index: ShardIndex, order: WindowedMixture, shards: Shards, *, names: Collection[str]) -> None:
        """Read the shards of these datasets of `index`, in this order."""
        self._index = index
        self._order = order
        self._shards = shards
        self._names = names
        self._window: tuple[int, int] | None = None

    def examples(self, encoding: Encoding) -> dict[str, Examples]:
        """By dataset; tokens are kept only of a corpus that is open as a whole."""
        keeps = sum(map(len, self._index.datasets.values())) <= self._index.mixed_shards
        samples = {name: ShardedSamples(self._index.datasets[name], self._shards) for name in self._names}
        return {name: Examples(name, one, encoding, keeps=keeps) for name, one in samples.items()}

    def held_out(self, encoding: Encoding) -> dict[str, Examples]:
        """By dataset, those that have any."""
        parts = {name: shards for name, shards in self._index.held_out.items() if name in self._names}
        return {name: Examples(name, ShardedSamples(one, self._shards), encoding) for name, one in parts.items()}

    def pictures(self, *, size: int) -> Pictures:
        """Of all shards."""
        return ShardedPictures(self._index.at, self._shards, size=size)

    def picks(self, start: int, stop: int) -> Iterator[Pick]:
        """The samples at these positions, see `WindowedMixture.picks`."""
        window = self._order.window_at(start)
        if window != self._window:
            self._window = window
            coming = self._order.coming(start)
            self._shards.expect([self._index.datasets[place.source][place.number].name for place in coming])
        return self._order.picks(start, stop)

    def close(self) -> None:
        """Open no more."""
        self._shards.close()


def open_stream(corpus: Path, index: ShardIndex, *, weights: Mapping[str, int], seed: int) -> Stream:
    """The datasets of a corpus in shards, mixed by `weights`.

    Raises:
        UserError: as `shard_files`.
    """
    sizes = {name: [part.num_samples for part in index.datasets[name]] for name in weights}
    order = WindowedMixture(sizes, weights, seed=seed, mixed_shards=index.mixed_shards)
    return Stream(index, order, Shards(index, shard_files(corpus, index)), names=list(weights))


def samples_of(corpus: Path, index: ShardIndex) -> Iterator[Sample]:
    """All samples to learn from, in the order of the corpus that they were written from; reads all their shards.

    Raises:
        UserError: as `shard_files`.
    """
    files = shard_files(corpus, index)
    for name in sorted(index.datasets, key=lambda name: f"{name}.json"):
        for shard in index.datasets[name]:
            with closing(_open(files, shard)) as opened:
                yield from (opened.sample(number) for number in range(len(opened)))


def check_shards(corpus: Path) -> ShardIndex:
    """Read every shard of a corpus and hold it against the index; what a cache has does not count.

    Raises:
        DataError: the corpus is not in shards, or one is not what the index says.
        VilaM3Error: as `ShardFiles.open`.
    """
    index = read_index(corpus)
    if index is None:
        raise DataError(f"{corpus}: is not in shards; write it so with vilam3 corpus shard")
    with scratch("vilam3-check-") as folder:
        files = _files_at(corpus, index, folder, limit_bytes=1)  # each goes when the next one comes
        for shard in index.shards():
            _open(files, shard).close()
    return index


def shard_files(corpus: Path, index: ShardIndex) -> ShardFiles:
    """Where the shards of a corpus come from.

    Raises:
        UserError: the place is not understood.
        RecipeError: the cache would not hold what is in use at once.
    """
    if urlsplit(index.at).scheme in {"", "file"}:
        return _files_at(corpus, index, Path(), limit_bytes=0)
    folder = inputs_folder() / "shards"
    folder.mkdir(mode=0o700, exist_ok=True)
    limit_bytes, needed = cache_limit(folder), _in_use_bytes(index)
    if needed > limit_bytes:
        raise RecipeError(
            f"{CACHE_VARIABLE}: {limit_bytes / GIB:.3g} GiB do not hold the {needed / GIB:.3g} GiB of shards in use at "
            f"once; raise it, or write the shards with a smaller window than {index.mixed_shards}"
        )
    return _files_at(corpus, index, folder, limit_bytes=limit_bytes)


def _files_at(corpus: Path, index: ShardIndex, cache: Path, *, limit_bytes: int) -> ShardFiles:
    parts = urlsplit(index.at)
    if parts.scheme in {"", "file"}:
        return FolderShards(corpus / unquote(parts.path))
    return FetchedShards(open_store(index.at), at=index.at, folder=cache, limit_bytes=limit_bytes)


def inputs_folder() -> Path:
    """What this user's trainings have brought to this machine, for his eyes alone."""
    folder = Path(tempfile.gettempdir()) / f"vilam3-inputs-{getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _in_use_bytes(index: ShardIndex) -> int:
    """Of the shards of a window and of the next, at most, and of all that are held out."""
    learned = sorted((shard.num_bytes for shards in index.datasets.values() for shard in shards), reverse=True)
    held_out = sum(shard.num_bytes for shards in index.held_out.values() for shard in shards)
    return sum(learned[: 2 * index.mixed_shards]) + held_out


def _open(files: ShardFiles, shard: Shard) -> OpenShard:
    stream = files.open(shard)
    try:
        return OpenShard(stream, shard)
    except DataError:
        stream.close()
        raise


def _close(opened: "Future[OpenShard]") -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result().close()

"""A corpus in a folder written as shards that training streams; what else lies in it is taken along."""

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from vilam3.artifacts import sha256_file, whole_directory
from vilam3.data.held_out import choose, name_of
from vilam3.data.llava import stream_samples
from vilam3.data.sample import Sample
from vilam3.data.shards import MANIFEST, SHARDS, Shard, ShardIndex, add_sample, read_index
from vilam3.errors import DataError
from vilam3.objects import open_store
from vilam3.scratch import scratch

MIB = 1 << 20
RESHAPED = frozenset({"samples", "images", MANIFEST})  # what the shards stand for
Put = Callable[[str, Path], None]
OnProgress = Callable[[int, int | None], None]
HELD_OUT = "held-out."  # how the names of their shards begin
_NAME = re.compile(rf"(?!{re.escape(HELD_OUT)})[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How a corpus is cut.

    Attributes:
        max_samples: Of a shard.
        max_bytes: Of a shard's samples and pictures; one sample alone may be larger.
        mixed_shards: Most shards whose samples training shuffles together, and holds at once.
    """

    max_samples: int = 512
    max_bytes: int = 128 * MIB
    mixed_shards: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """What is not to be learned from.

    Attributes:
        num_samples: At least so many, of whole patients.
        seed: Another one chooses other patients.
    """

    num_samples: int = 0
    seed: int = 0


NOTHING = HeldOut()


def shard_corpus(
    corpus: Path,
    *,
    out: str,
    at: str = "",
    cut: Cut | None = None,
    held_out: HeldOut = NOTHING,
    on_progress: OnProgress | None = None,
) -> ShardIndex:
    """Write a corpus in shards; the manifest is written last, so that half a corpus is none.

    Args:
        corpus: A prepared corpus.
        out: Folder, replaced as a whole, or ``s3://bucket/prefix``.
        at: Where the shards go, ``s3://bucket/prefix`` or ``file:///folder``; empty: into `out`.
        cut: How it is cut.
        held_out: Samples that go into shards of their own.
        on_progress: Called with the number of samples done and, where the corpus states it, of all.

    Raises:
        DataError: the corpus is in shards already, has no samples, lacks a picture, or has nothing left to learn.
        ArtifactError: a place cannot be written.
    """
    if read_index(corpus) is not None:
        raise DataError(f"{corpus}: is in shards already; give the corpus that they were written from")
    files, cut = _sample_files(corpus), cut or Cut()
    names = _held_out_names(files, held_out)
    with _writing(out) as put, _writing(at) if at else nullcontext(put) as put_shard:
        writer = _Writer(corpus, cut, put_shard, below="" if at else f"{SHARDS}/", on_progress=on_progress)
        learned = {file.stem: writer.written(file, lambda one: name_of(one) not in names) for file in files}
        held = {
            file.stem: writer.written(file, lambda one: name_of(one) in names, prefix=HELD_OUT)
            for file in files
            if names
        }
        index = ShardIndex(
            at=at or SHARDS,
            mixed_shards=cut.mixed_shards,
            datasets=learned,
            held_out={name: shards for name, shards in held.items() if shards},
        )
        _take_along(corpus, put)
        _put_manifest(corpus, index, put)
    return index


def _held_out_names(files: Sequence[Path], held_out: HeldOut) -> frozenset[str]:
    """Whom to hold out.

    Raises:
        DataError: nothing would be left of a dataset.
    """
    if not held_out.num_samples:
        return frozenset()
    every = (sample for file in files for sample in stream_samples(file))
    names = choose(every, at_least=held_out.num_samples, seed=held_out.seed)
    for file in files:
        is_held_out = [name_of(sample) in names for sample in stream_samples(file)]
        if is_held_out and all(is_held_out):
            raise DataError(
                f"{held_out.num_samples} samples held out: nothing of {file.stem} would be left; hold out fewer"
            )
    return names


@contextmanager
def _writing(place: str) -> Iterator[Put]:
    """Puts files below a place."""
    if place.startswith(("s3://", "file://")):
        yield open_store(place).put
        return
    with whole_directory(Path(place)) as folder:

        def put(key: str, file: Path) -> None:
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / key)

        yield put


def _sample_files(corpus: Path) -> list[Path]:
    files = sorted((corpus / "samples").glob("*.json"))
    if not files:
        raise DataError(f"{corpus / 'samples'}: holds no conversations; give a prepared corpus")
    for file in files:
        if not _NAME.fullmatch(file.stem):
            raise DataError(
                f"{file}: a dataset in shards is named by letters, digits, '.', '_' and '-', and not "
                f"{HELD_OUT}...; rename it"
            )
    return files


_Part = list[tuple[str, Sample, list[bytes]]]


class _Writer:
    """Writes shards, each put where it belongs as soon as it is whole."""

    def __init__(self, corpus: Path, cut: Cut, put: Put, *, below: str, on_progress: OnProgress | None) -> None:
        self._corpus = corpus
        self._cut = cut
        self._put = put
        self._below = below
        self._on_progress = on_progress
        self._done, self._total = 0, _stated_total(corpus)

    def written(self, file: Path, takes: Callable[[Sample], bool], *, prefix: str = "") -> tuple[Shard, ...]:
        """The shards of a file's samples that it takes."""
        shards = []
        for number, part in enumerate(self._parts(file, takes)):
            shards.append(self._shard(f"{prefix}{file.stem}-{number:05d}.tar", part))
            self._done += len(part)
            if self._on_progress is not None:
                self._on_progress(self._done, self._total)
        return tuple(shards)

    def _shard(self, name: str, part: _Part) -> Shard:
        with scratch("vilam3-shard-") as folder:
            path = folder / name
            with tarfile.open(path, "w") as archive:
                for key, sample, pictures in part:
                    add_sample(archive, key, sample, pictures)
            self._put(f"{self._below}{name}", path)
            return Shard(name=name, sha256=sha256_file(path), num_bytes=path.stat().st_size, num_samples=len(part))

    def _parts(self, file: Path, takes: Callable[[Sample], bool]) -> Iterator[_Part]:
        """The samples of each shard with their pictures, one shard in memory at a time."""
        part: _Part = []
        num_bytes = 0
        for index, sample in enumerate(stream_samples(file)):
            if not takes(sample):
                continue
            pictures = [_picture(self._corpus, image, sample) for image in sample.images]
            size = sum(map(len, pictures)) + sum(len(turn.text) for turn in sample.turns)
            if part and (len(part) == self._cut.max_samples or num_bytes + size > self._cut.max_bytes):
                yield part
                part, num_bytes = [], 0
            part.append((f"{index:09d}", sample, pictures))
            num_bytes += size
        if part:
            yield part


def _stated_total(corpus: Path) -> int | None:
    stated = json.loads((corpus / MANIFEST).read_text(encoding="utf-8")).get("samples")
    return sum(map(int, stated.values())) if isinstance(stated, dict) else None


def _picture(corpus: Path, image: str, sample: Sample) -> bytes:
    """As it is: whether it can be decoded is for training to see, which may leave a few out."""
    try:
        return (corpus / image).read_bytes()
    except OSError as error:
        raise DataError(
            f"{corpus / image}: cannot be read ({error.strerror}), and sample {sample.sample_id} shows it; put it "
            "there or take the sample out"
        ) from error


def _take_along(corpus: Path, put: Put) -> None:
    """Held-out questions, their studies, what experts learn from."""
    for file in sorted(corpus.rglob("*")):
        relative = file.relative_to(corpus)
        if file.is_file() and relative.parts[0] not in RESHAPED:
            put(relative.as_posix(), file)


def _put_manifest(corpus: Path, index: ShardIndex, put: Put) -> None:
    others = json.loads((corpus / MANIFEST).read_text(encoding="utf-8"))
    with scratch("vilam3-shard-") as folder:
        path = folder / MANIFEST
        path.write_text(json.dumps(index.manifest(others), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        put(MANIFEST, path)

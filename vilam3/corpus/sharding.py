"""A corpus in a folder written as shards that training streams; what else lies in it is taken along."""

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from vilam3.artifacts import sha256_file, whole_directory
from vilam3.data.llava import stream_samples
from vilam3.data.sample import Sample
from vilam3.data.shards import MANIFEST, SHARDS, Shard, ShardIndex, add_sample, read_index
from vilam3.errors import DataError
from vilam3.objects import open_store
from vilam3.scratch import scratch

MIB = 1 << 20
RESHAPED = frozenset({"samples", "images", MANIFEST})  # what the shards stand for
Put = Callable[[str, Path], None]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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


def shard_corpus(
    corpus: Path, *, out: str, at: str = "", cut: Cut | None = None, on_progress: Callable[[int], None] | None = None
) -> ShardIndex:
    """Write a corpus in shards; the manifest is written last, so that half a corpus is none.

    Args:
        corpus: A prepared corpus.
        out: Folder, replaced as a whole, or ``s3://bucket/prefix``.
        at: Where the shards go, ``s3://bucket/prefix`` or ``file:///folder``; empty: into `out`.
        cut: How it is cut.
        on_progress: Called with the number of samples done.

    Raises:
        DataError: the corpus is in shards already, has no samples, or lacks a picture.
        ArtifactError: a place cannot be written.
    """
    if read_index(corpus) is not None:
        raise DataError(f"{corpus}: is in shards already; give the corpus that they were written from")
    with _writing(out) as put, _writing(at) if at else nullcontext(put) as put_shard:
        datasets, done = {}, 0
        for file in _sample_files(corpus):
            shards: list[Shard] = []
            for shard in _written(corpus, file, cut or Cut(), put_shard, below="" if at else f"{SHARDS}/"):
                shards.append(shard)
                done += shard.num_samples
                if on_progress is not None:
                    on_progress(done)
            datasets[file.stem] = tuple(shards)
        index = ShardIndex(at=at or SHARDS, mixed_shards=(cut or Cut()).mixed_shards, datasets=datasets)
        _take_along(corpus, put)
        _put_manifest(corpus, index, put)
    return index


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
            raise DataError(f"{file}: a dataset in shards is named by letters, digits, '.', '_' and '-'; rename it")
    return files


def _written(corpus: Path, file: Path, cut: Cut, put: Put, *, below: str) -> Iterator[Shard]:
    """The shards of a dataset, each when it is where it belongs."""
    for number, part in enumerate(_parts(corpus, file, cut)):
        name = f"{file.stem}-{number:05d}.tar"
        with scratch("vilam3-shard-") as folder:
            path = folder / name
            with tarfile.open(path, "w") as archive:
                for key, sample, pictures in part:
                    add_sample(archive, key, sample, pictures)
            shard = Shard(name=name, sha256=sha256_file(path), num_bytes=path.stat().st_size, num_samples=len(part))
            put(f"{below}{name}", path)
        yield shard


_Part = list[tuple[str, Sample, list[bytes]]]


def _parts(corpus: Path, file: Path, cut: Cut) -> Iterator[_Part]:
    """The samples of each shard with their pictures, one shard in memory at a time."""
    part: _Part = []
    num_bytes = 0
    for index, sample in enumerate(stream_samples(file)):
        pictures = [_picture(corpus, image, sample) for image in sample.images]
        size = sum(map(len, pictures)) + sum(len(turn.text) for turn in sample.turns)
        if part and (len(part) == cut.max_samples or num_bytes + size > cut.max_bytes):
            yield part
            part, num_bytes = [], 0
        part.append((f"{index:09d}", sample, pictures))
        num_bytes += size
    if part:
        yield part


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

"""A corpus in shards: tar files as WebDataset lays them out, and the index that names them by their SHA-256.

    corpus.json              the index, and where the shards are
    shards/vqa-00000.tar     000000000.json: a conversation as in samples/vqa.json; 000000000.0.png: its picture; ...
    shards/held-out.vqa-00000.tar    likewise, of patients that nothing is learned from

Members of one sample follow each other and share the name before the first dot. Knows neither stores nor checksums of
what it reads: see `vilam3.train.shard_files`.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from vilam3.data.llava import record_of, sample_of
from vilam3.data.sample import Sample
from vilam3.errors import DataError

MANIFEST = "corpus.json"
SHARDS = "shards"  # key of the index in the manifest, and the folder beside it where no other place is named
CONVERSATION = ".json"
MOST_MIXED = 256  # files that a process holds open are two windows
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ShardName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.tar$")]


class Shard(BaseModel):
    """One tar file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ShardName
    sha256: Sha256
    num_bytes: PositiveInt
    num_samples: PositiveInt


class ShardIndex(BaseModel):
    """What a corpus in shards consists of.

    Attributes:
        at: Where the shards are: relative to the manifest, or a place of their own.
        mixed_shards: Most shards whose samples are shuffled together.
        datasets: Shards by dataset, in the order of its samples.
        held_out: Likewise, of samples that nothing is learned from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: str = SHARDS
    mixed_shards: Annotated[int, Field(ge=1, le=MOST_MIXED)]
    datasets: Mapping[str, tuple[Shard, ...]]
    held_out: Mapping[str, tuple[Shard, ...]] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of everything but the place: a corpus that has moved is the same."""
        told = self.model_dump(mode="json", exclude={"at"} if self.held_out else {"at", "held_out"})
        return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def sizes(self) -> dict[str, int]:
        """Samples to learn from by dataset."""
        return _sizes(self.datasets)

    @property
    def held_out_sizes(self) -> dict[str, int]:
        """Samples held out by dataset."""
        return _sizes(self.held_out)

    def shards(self) -> Iterator[Shard]:
        """All of them."""
        return (shard for shards in (*self.datasets.values(), *self.held_out.values()) for shard in shards)

    def manifest(self, others: Mapping[str, object] | None = None) -> dict[str, object]:
        """What ``corpus.json`` holds, `others` of an earlier one included."""
        own = {"samples": self.sizes, SHARDS: self.model_dump(mode="json"), "digest": self.digest}
        return {**(others or {}), **own}


def _sizes(datasets: Mapping[str, tuple[Shard, ...]]) -> dict[str, int]:
    return {name: sum(shard.num_samples for shard in shards) for name, shards in datasets.items()}


def read_index(corpus: Path) -> ShardIndex | None:
    """The index of a corpus, or None where it is not in shards.

    Raises:
        DataError: the manifest is missing, damaged, or not the one its digest was taken of.
    """
    path = corpus / MANIFEST
    try:
        return parse_index(path.read_bytes(), where=str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a prepared corpus") from error


def parse_index(text: bytes, *, where: str) -> ShardIndex | None:
    """`read_index` of what was read already.

    Raises:
        DataError: as there.
    """
    try:
        manifest = json.loads(text)
        if manifest.get(SHARDS) is None:
            return None
        index = ShardIndex.model_validate(manifest[SHARDS])
    except (ValueError, AttributeError) as error:  # pydantic's are ValueErrors
        raise DataError(f"{where}: is not a corpus manifest ({error}); prepare the corpus again") from error
    if manifest.get("digest") != index.digest:
        raise DataError(f"{where}: the index is not what its digest was taken of; write the shards again")
    return index


class OpenShard:
    """The samples and pictures of a shard, read where they lie in the file; safe from several threads."""

    def __init__(self, stream: BinaryIO, shard: Shard) -> None:
        """Find the members of a file that was verified; it is closed by `close`.

        Raises:
            DataError: it is not what the index says, though its checksum is.
        """
        self._stream = stream
        self._name = shard.name
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                self._places = {member.name: (member.offset_data, member.size) for member in archive}
        except tarfile.TarError as error:
            raise DataError(f"{shard.name}: is not a tar file ({error}); write the shards again") from error
        self._conversations = [name for name in self._places if name.endswith(CONVERSATION)]
        if len(self._conversations) != shard.num_samples:
            raise DataError(
                f"{shard.name}: has {len(self._conversations)} samples, the index says {shard.num_samples}; write the "
                "shards again"
            )

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._conversations)

    def sample(self, number: int) -> Sample:
        """One of them; its pictures are named ``<shard>/<member>``."""
        name = self._conversations[number]
        where = f"{self._name}: {name}"
        try:
            item = json.loads(self._read(name))
        except ValueError as error:
            raise DataError(f"{where}: is not JSON ({error}); write the shards again") from error
        sample = sample_of(item, default_id=name, where=where)
        key = name.removesuffix(CONVERSATION)
        return replace(sample, images=tuple(f"{self._name}/{member}" for member in picture_names(key, sample.images)))

    def picture(self, member: str) -> bytes:
        """The file of a picture.

        Raises:
            DataError: there is no such member.
        """
        if member not in self._places:
            raise DataError(f"{self._name}/{member}: is not in the shard; write the shards again")
        return self._read(member)

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()

    def _read(self, member: str) -> bytes:
        offset, size = self._places[member]
        return os.pread(self._stream.fileno(), size, offset)


def picture_names(key: str, images: Sequence[str]) -> list[str]:
    """The members that hold a sample's pictures, in their order."""
    return [f"{key}.{number}{PurePosixPath(image).suffix.lower()}" for number, image in enumerate(images)]


def add_sample(archive: tarfile.TarFile, key: str, sample: Sample, pictures: Sequence[bytes]) -> None:
    """Append one sample to a shard; the same sample gives the same bytes, whoever writes it and when."""
    text = json.dumps(record_of(sample), ensure_ascii=False).encode()
    members = [(f"{key}{CONVERSATION}", text), *zip(picture_names(key, sample.images), pictures, strict=True)]
    for name, content in members:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))

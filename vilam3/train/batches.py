"""Samples and pictures to padded batches, in an order that is a pure function of seed and step.

A sample is tokenized and a picture decoded when first drawn, and kept while memory allows; nothing random is stored, so
a resumed run needs only its step number.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vilam3.data.mixture import Pick
from vilam3.data.sample import IMAGE_TOKEN, Sample
from vilam3.errors import DataError
from vilam3.model.chat import Template, embedded_length, encode_training
from vilam3.model.config import IGNORED_LABEL, IMAGE_TOKEN_ID
from vilam3.model.segments import OPENING
from vilam3.model.tokenizer import PieceTokenizer
from vilam3.train.example import Example
from vilam3.train.packing import Packing
from vilam3.train.prefix import by_opening, shared_length
from vilam3.train.rows import Piece, joined, opening_of, rows_of
from vilam3.train.step import Batch

PICTURE_MEMORY_BYTES = 1 << 30
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How conversations become tokens in one stage; `families` has the number of each dataset's, if there are any."""

    tokenizer: PieceTokenizer
    template: Template
    max_tokens: int
    tokens_per_image: int
    normalise: bool
    families: Mapping[str, int] = field(default_factory=dict)


class Samples(Protocol):
    """The conversations of a dataset by index."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, index: int, /) -> Sample:
        """One of them."""
        ...


class Picks(Protocol):
    """The order of all samples."""

    def picks(self, start: int, stop: int) -> Iterator[Pick]:
        """Those at positions `start` to `stop` - 1, counted from the first of the first epoch."""
        ...

    def close(self) -> None:
        """No more are asked for."""
        ...


class Shown(Protocol):
    """Pixels by the name of a picture."""

    def __getitem__(self, name: str, /) -> Tensor:
        """uint8 (3, S, S)."""
        ...


class Pictures:
    """Pictures below a root, decoded and resized once, as uint8 (3, S, S)."""

    def __init__(self, root: Path | str, *, size: int, memory_bytes: int = PICTURE_MEMORY_BYTES) -> None:
        """Keep decoded pictures up to `memory_bytes`; beyond that they are decoded each time."""
        self._root = root
        self._size = size
        self._room = memory_bytes // (3 * size * size)
        self._kept: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """The picture of that path relative to the root.

        Raises:
            DataError: it is missing or not an image.
        """
        if name in self._kept:
            return self._kept[name]
        pixels_CHW = self._decode(name)
        if len(self._kept) < self._room:
            self._kept[name] = pixels_CHW
        return pixels_CHW

    def _decode(self, name: str) -> Tensor:
        try:
            with Image.open(self._opened(name)) as picture:
                square = picture.convert("RGB").resize((self._size, self._size), Image.Resampling.BICUBIC)
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(
                f"{self._root}/{name}: cannot be read as an image ({error}); prepare the corpus again"
            ) from error
        return torch.from_numpy(np.asarray(square).transpose(2, 0, 1).copy())

    def _opened(self, name: str) -> Path | BinaryIO:
        """What is decoded."""
        return Path(self._root, name)


class Examples:
    """One dataset, tokenized when first asked for."""

    def __init__(self, name: str, samples: Samples, encoding: Encoding, *, keeps: bool = True) -> None:
        """`name` is for messages and its family; who does not keep tokens makes them each time."""
        self._name = name
        self._samples = samples
        self._encoding = encoding
        self._keeps = keeps
        self._kept: dict[int, Example] = {}

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._samples)

    def __getitem__(self, index: int) -> Example:
        """The sample at `index`, tokenized.

        Raises:
            DataError: its places and images disagree, or nothing of it is to be learned.
        """
        if index in self._kept:
            return self._kept[index]
        example = self._encode(self._samples[index])
        if self._keeps:
            self._kept[index] = example
        return example

    def _encode(self, sample: Sample) -> Example:
        how = self._encoding
        encoded = encode_training(
            sample.turns,
            how.tokenizer,
            how.template,
            max_tokens=how.max_tokens,
            tokens_per_image=how.tokens_per_image,
            normalise=how.normalise,
        )
        places = sum(turn.text.count(IMAGE_TOKEN) for turn in sample.turns)
        where = f"dataset {self._name} sample {sample.sample_id}"
        if places != len(sample.images):
            raise DataError(f"{where}: has {places} {IMAGE_TOKEN} places but {len(sample.images)} images; mend it")
        if not any(label != IGNORED_LABEL for label in encoded.labels[1:]):
            raise DataError(f"{where}: no answer is left within {how.max_tokens} tokens; raise max_tokens or drop it")
        return Example(
            input_ids_T=np.asarray(encoded.input_ids, dtype=np.int64),
            labels_T=np.asarray(encoded.labels, dtype=np.int64),
            images=sample.images[: encoded.input_ids.count(IMAGE_TOKEN_ID)],
            length=embedded_length(encoded.input_ids, how.tokens_per_image),
            sample_id=sample.sample_id,
            family=how.families.get(self._name),
        )


class Feed:
    """The batches of a stage."""

    def __init__(
        self,
        datasets: Mapping[str, Examples],
        pictures: Pictures,
        *,
        order: Picks,
        packing: Packing | None = None,
        skips: bool = False,
        held_out: Mapping[str, Examples] | None = None,
    ) -> None:
        """Take from `datasets` in this order. Without `packing` every sample has a row of its own.

        Of `held_out` nothing is learned. Where it `skips`, a sample whose pictures cannot be read is left out and its
        name kept in `unreadable`.
        """
        self._datasets = datasets
        self.pictures = pictures
        self._order = order
        self._packing = packing
        self._skips = skips
        self._held_out = dict(sorted((held_out or {}).items()))
        self.unreadable: set[str] = set()
        self.unreadable_before: frozenset[str] = frozenset()  # by whoever trained up to here

    @property
    def sizes(self) -> dict[str, int]:
        """Samples per dataset."""
        return {name: len(examples) for name, examples in self._datasets.items()}

    def batches(
        self, step: int, *, global_batch: int, micro_batch: int, rank: int = 0, world_size: int = 1
    ) -> list[Batch]:
        """Samples of optimizer step `step`, counted from 0; like openings and similar lengths together.

        Epochs follow each other without a gap, so the sampler's state is the step. Which samples a step has does not
        depend on the world: of `world_size` members, number `rank` gets every `world_size`-th of them, if need be none.
        """
        drawn = self.drawn(step, global_batch=global_batch, rank=rank, world_size=world_size)
        return self._cut(drawn, micro_batch=micro_batch)

    def held_out(self, *, micro_batch: int, rank: int = 0, world_size: int = 1) -> list[Batch]:
        """All held-out samples, each with one of the members, in the same order every time."""
        every = [(name, index) for name, examples in self._held_out.items() for index in range(len(examples))]
        return self._cut(
            [self._held_out[name][index] for name, index in every[rank::world_size]], micro_batch=micro_batch
        )

    def _cut(self, samples: Sequence[Example], *, micro_batch: int) -> list[Batch]:
        """Batches of these samples."""
        drawn, pictures = self._read(samples)
        if self._packing is not None:
            rows = rows_of(drawn, capacity=self._packing.capacity)
            places = range(0, len(rows), self._packing.rows)
            return [collate_packed(rows[start : start + self._packing.rows], pictures) for start in places]
        drawn.sort(key=lambda example: -example.length)
        groups = by_opening([opening_of(example) for example in drawn])
        parts = [group[start : start + micro_batch] for group in groups for start in range(0, len(group), micro_batch)]
        return [collate([drawn[index] for index in part], pictures) for part in parts]

    def close(self) -> None:
        """Let go of what was opened for steps to come."""
        self._order.close()

    def drawn(self, step: int, *, global_batch: int, rank: int = 0, world_size: int = 1) -> list[Example]:
        """The samples of `batches`, in the order of the mixture."""
        picks = islice(self._order.picks(step * global_batch, (step + 1) * global_batch), rank, None, world_size)
        return [self._datasets[pick.source][pick.index] for pick in picks]

    def _read(self, drawn: Sequence[Example]) -> tuple[list[Example], dict[str, Tensor]]:
        """The samples whose pictures can be read, and those pictures."""
        readable, found = [], {}
        for one in drawn:
            try:
                found.update({name: self.pictures[name] for name in one.images})
            except DataError as error:
                if not self._skips:
                    raise
                if one.sample_id not in self.unreadable | self.unreadable_before:
                    log.warning("sample %s is left out: %s", one.sample_id, error)
                    self.unreadable.add(one.sample_id)
                continue
            readable.append(one)
        return readable, found


def collate(examples: Sequence[Example], pictures: Shown) -> Batch:
    """Pad on the right and gather the pictures in order."""
    longest = max(len(example.input_ids_T) for example in examples)
    input_ids_BT = np.zeros((len(examples), longest), dtype=np.int64)
    labels_BT = np.full((len(examples), longest), IGNORED_LABEL, dtype=np.int64)
    mask_BT = np.zeros((len(examples), longest), dtype=np.bool_)
    for row, example in enumerate(examples):
        width = len(example.input_ids_T)
        input_ids_BT[row, :width] = example.input_ids_T
        labels_BT[row, :width] = example.labels_T
        mask_BT[row, :width] = True
    images = [pictures[name] for example in examples for name in example.images]
    ids, labels, mask = (torch.from_numpy(one) for one in (input_ids_BT, labels_BT, mask_BT))
    return Batch(
        input_ids_BT=ids,
        labels_BT=labels,
        mask_BT=mask,
        pixels_NCHW=torch.stack(images) if images else None,
        num_targets=int((labels_BT[:, 1:] != IGNORED_LABEL).sum()),
        num_shared=shared_length(ids, labels, mask),
        samples=tuple(example.sample_id for example in examples),
        families_BT=_families([[example] for example in examples], longest),
    )


def collate_packed(rows: Sequence[Sequence[Piece]], pictures: Shown) -> Batch:
    """Join the pieces of each row, then `collate` the rows; how each piece begins is kept."""
    batch = collate([joined(row) for row in rows], pictures)
    starts_BT = torch.zeros_like(batch.input_ids_BT)
    for number, row in enumerate(rows):
        firsts = np.cumsum([0, *(len(piece.example.input_ids_T) for piece in row[:-1])])
        starts_BT[number, firsts] = torch.tensor([piece.begins for piece in row])
    samples = tuple(piece.example.sample_id for row in rows for piece in row if piece.begins != OPENING)
    families_BT = _families([[piece.example for piece in row] for row in rows], batch.input_ids_BT.shape[1])
    return replace(batch, starts_BT=starts_BT, samples=samples, num_shared=0, families_BT=families_BT)


def _families(rows: Sequence[Sequence[Example]], width: int) -> Tensor | None:
    """The family of each token, 0 where padded; None where samples have none."""
    families_BT = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        start = 0
        for example in row:
            if example.family is None:
                return None
            families_BT[number, start : start + len(example.input_ids_T)] = example.family
            start += len(example.input_ids_T)
    return families_BT

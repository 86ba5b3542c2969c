"""Safetensors files of one folder: headers, sharding by index, memory-mapped reading and sharded writing.

Headers are read here before the library opens a file, so that a damaged file is reported with its name and, where it
can be told, the tensor.
"""

import itertools
import json
import math
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vilam3.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000
MAX_HEADER_BYTES = 100_000_000
CHUNK_BYTES = 256 << 20  # converted at a time, so that a mapped shard is let go piece by piece
LENGTH_BYTES = 8
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
AGAIN = "the file is damaged or incomplete; copy it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Where one tensor is and what its header says."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of its data."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def survey(folder: Path) -> dict[str, Stored]:
    """Every tensor of a folder, from its single file or from its index and shards.

    Raises:
        CheckpointError: no weights, a shard that is absent, or a damaged file.
    """
    index = folder / INDEX
    if not index.is_file():
        if not (folder / SINGLE).is_file():
            raise CheckpointError(f"{folder}: holds neither {SINGLE} nor {INDEX}; copy the weights into it")
        return {stored.name: stored for stored in read_header(folder / SINGLE)}
    weight_map = _weight_map(index)
    found: dict[str, Stored] = {}
    for shard in sorted(set(weight_map.values())):
        if not (folder / shard).is_file():
            tensor = next(name for name, file in weight_map.items() if file == shard)
            raise CheckpointError(f"{index}: names shard {shard} for tensor {tensor}, which is absent; copy that file")
        found |= {stored.name: stored for stored in read_header(folder / shard)}
    for name, shard in weight_map.items():
        if name not in found:
            raise CheckpointError(f"{folder / shard}: lacks tensor {name}, which {INDEX} places there; {AGAIN}")
    return found


def read_header(file: Path) -> list[Stored]:
    """The tensors a file says it holds, checked against its length.

    Raises:
        CheckpointError: the header is unreadable, or data is missing or left over.
    """
    size = file.stat().st_size
    header, length = _header(file, size)
    stored: list[Stored] = []
    expected_begin = 0
    for name, entry in sorted(header.items(), key=lambda item: _begin(file, item)):
        tensor, begin, end = _entry(file, name, entry)
        if begin != expected_begin or end - begin != tensor.num_bytes:
            raise CheckpointError(f"{file} tensor {name}: its place or shape in the header is inconsistent; {AGAIN}")
        if LENGTH_BYTES + length + end > size:
            missing = LENGTH_BYTES + length + end - size
            raise CheckpointError(f"{file} tensor {name}: the file ends {missing} bytes before its data does; {AGAIN}")
        expected_begin = end
        stored.append(tensor)
    if LENGTH_BYTES + length + expected_begin != size:
        raise CheckpointError(
            f"{file}: {size} bytes, but its header accounts for {length + 8 + expected_begin}; {AGAIN}"
        )
    return stored


def read(tensors: Mapping[str, Stored], dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor under its key; memory-mapped where the stored type is wanted, else converted.

    A mapped tensor may be written to: its pages become private, the file stays as it is.

    Raises:
        CheckpointError: a file cannot be opened.
    """
    by_file = sorted(tensors.items(), key=lambda item: (str(item[1].file), item[0]))
    for file, group in itertools.groupby(by_file, key=lambda item: item[1].file):
        for chunk in _chunks(list(group), dtype):
            try:
                with safe_open(file, framework="pt") as opened:
                    for key, stored in chunk:
                        tensor: Tensor = opened.get_tensor(stored.name)
                        yield key, tensor if dtype is None else tensor.to(dtype)
            except SafetensorError as error:
                raise CheckpointError(f"{file}: not readable as safetensors ({error}); {AGAIN}") from error


def write(tensors: Mapping[str, Tensor], folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write tensors as one file, or as shards of at most `max_shard_bytes` with their index."""
    shards = _split(tensors, max_shard_bytes)
    if len(shards) == 1:
        _save(tensors, shards[0], folder / SINGLE)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _save(tensors, names, folder / file)
        weight_map |= dict.fromkeys(names, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _save(tensors: Mapping[str, Tensor], names: Sequence[str], file: Path) -> None:
    try:
        save_file({name: tensors[name].detach().contiguous() for name in names}, file, metadata={"format": "pt"})
    except (
        SafetensorError
    ) as error:  # the library hides the system's error in its text; a full disk must be told as one
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            code = int(found[1])
            raise OSError(code, os.strerror(code), str(file)) from error
        raise


def _split(tensors: Mapping[str, Tensor], max_shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += tensor.nbytes
    return shards


def _chunks(group: list[tuple[str, Stored]], dtype: torch.dtype | None) -> Iterator[list[tuple[str, Stored]]]:
    """Whole when mapped; in pieces when converted, because a mapping keeps every page it has touched."""
    if dtype is None or all(TORCH_TYPES[stored.dtype] == dtype for _, stored in group):
        yield group
        return
    chunk: list[tuple[str, Stored]] = []
    filled = 0
    for item in group:
        chunk.append(item)
        filled += item[1].num_bytes
        if filled >= CHUNK_BYTES:
            yield chunk
            chunk, filled = [], 0
    if chunk:
        yield chunk


TORCH_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index}: not a readable weight index ({error!r}); {AGAIN}") from error
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map does not name a file for each tensor; {AGAIN}")
    for name, file in weight_map.items():
        if Path(file).name != file:
            raise CheckpointError(f"{index}: tensor {name} is placed in {file!r}, outside its folder; {AGAIN}")
    return weight_map


def _header(file: Path, size: int) -> tuple[dict[str, Any], int]:
    with file.open("rb") as stream:
        prefix = stream.read(LENGTH_BYTES)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == LENGTH_BYTES else 0
        if not 0 < length <= min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
            raise CheckpointError(f"{file}: its first bytes are not the header of a safetensors file; {AGAIN}")
        raw = stream.read(length)
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise CheckpointError(f"{file}: its header is not readable ({error}); {AGAIN}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: its header is not an object; {AGAIN}")
    header.pop("__metadata__", None)
    return header, length


def _begin(file: Path, item: tuple[str, Any]) -> tuple[int, int]:
    try:
        begin, end = item[1]["data_offsets"]
        return int(begin), int(end)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} tensor {item[0]}: its header entry is not readable; {AGAIN}") from error


def _entry(file: Path, name: str, entry: Mapping[str, Any]) -> tuple[Stored, int, int]:
    begin, end = _begin(file, (name, entry))
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if dtype not in ITEM_BYTES:
        known = ", ".join(ITEM_BYTES)
        raise CheckpointError(f"{file} tensor {name}: type {dtype!r} is none of {known}; {AGAIN}")
    if not isinstance(shape, list) or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise CheckpointError(f"{file} tensor {name}: shape {shape!r} is not a list of sizes; {AGAIN}")
    return Stored(file=file, name=name, dtype=dtype, shape=tuple(shape)), begin, end

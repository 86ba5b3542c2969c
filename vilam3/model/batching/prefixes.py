"""What is remembered of earlier prompts and replies: their keys and values, block by block, by what they stand for.

A block's key is a digest over everything before its end - the scope, every token, the content of every picture - so
that two prompts share exactly their common beginning, and prompts of different scopes share nothing.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

BLOCK = 16  # positions; half of one is computed again on average


class KeyChain:
    """The keys of a sequence's full blocks, while the sequence grows."""

    def __init__(self, *, scope: str) -> None:
        """Begin with nothing, on behalf of `scope`."""
        self.keys: list[bytes] = []
        self._parent = hashlib.sha256(scope.encode()).digest()
        self._rest: list[bytes] = []

    def add_tokens(self, ids: Sequence[int]) -> None:
        """The next positions hold these tokens."""
        self._rest.extend(b"token" + token.to_bytes(8, "little") for token in ids)
        self._close_blocks()

    def add_image(self, key: bytes, num_positions: int) -> None:
        """The next positions hold this picture."""
        self._rest.extend(b"image" + key + place.to_bytes(4, "little") for place in range(num_positions))
        self._close_blocks()

    def _close_blocks(self) -> None:
        begin = 0
        while len(self._rest) - begin >= BLOCK:
            block = self._rest[begin : begin + BLOCK]
            self._parent = hashlib.sha256(b"".join([self._parent, *block])).digest()
            self.keys.append(self._parent)
            begin += BLOCK
        del self._rest[:begin]


class PrefixStore:
    """Blocks by key, within a bound of memory; what was used longest ago goes first."""

    def __init__(self, most_bytes: int) -> None:
        """Hold at most so much."""
        self.most_bytes = most_bytes
        self.nbytes = 0
        self._blocks: OrderedDict[bytes, Tensor] = OrderedDict()

    def __len__(self) -> int:
        """Blocks held."""
        return len(self._blocks)

    def __contains__(self, key: bytes) -> bool:
        """Whether a block is held."""
        return key in self._blocks

    def longest(self, keys: Sequence[bytes]) -> list[Tensor]:
        """The blocks of the longest beginning that is remembered."""
        found: list[bytes] = []
        for key in keys:
            if key not in self._blocks:
                break
            found.append(key)
        self._touch(found)
        return [self._blocks[key] for key in found]

    def put(self, key: bytes, block: Tensor) -> None:
        """Remember a block, and forget what there is no memory for."""
        if block.nbytes > self.most_bytes or key in self._blocks:
            return
        self._blocks[key] = block
        self.nbytes += block.nbytes
        while self.nbytes > self.most_bytes:
            _, forgotten = self._blocks.popitem(last=False)
            self.nbytes -= forgotten.nbytes

    def _touch(self, keys: Sequence[bytes]) -> None:
        """The beginning of a sequence is used last, so that its end is forgotten first: alone it is worth nothing."""
        for key in reversed(keys):
            self._blocks.move_to_end(key)

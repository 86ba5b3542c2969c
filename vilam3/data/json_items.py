"""The objects of a JSON list or of JSON Lines one by one, without holding the file."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from vilam3.errors import DataError

CHUNK_CHARACTERS = 1 << 16
LONGEST_ITEM_CHARACTERS = 1 << 26
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def json_items(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of `path`, a JSON list or JSON Lines; which of the two, its first character says.

    Raises:
        DataError: missing, not UTF-8, cut, or not such a file; names the file and the item.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            yield from _Reader(stream, path.name).items()
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or 'cannot be read'}; check the path") from error


class _Reader:
    """A window on a stream of JSON values; `place` is where the next one starts in `text`."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self.stream, self.name = stream, name
        self.text, self.place, self.ended, self.index = "", 0, False, 0

    def items(self) -> Iterator[dict[str, Any]]:
        first = self._peek()
        if not first:
            raise DataError(f"{self.name}: the file is empty; it should hold a JSON list or JSON Lines")
        listed = first == "["
        self.place += listed
        while (following := self._peek()) and not (listed and following == "]"):
            if listed and self.index:
                self._expect(",")
            yield self._item()
            self.index += 1
        if listed:
            self._expect("]")
            if self._peek():
                raise DataError(f"{self.name}: text after the end of the list; keep one JSON list")

    def _expect(self, sign: str) -> None:
        found = self._peek()
        if found != sign:
            problem = f"{sign!r} expected" if found else "the file ends within the list, it was probably cut"
            raise DataError(f"{self.name}: item {self.index}: {problem}")
        self.place += 1

    def _item(self) -> dict[str, Any]:
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.place)
            except (json.JSONDecodeError, RecursionError, ValueError) as error:
                if not self._more() or len(self.text) - self.place > LONGEST_ITEM_CHARACTERS:
                    raise DataError(f"{self.name}: item {self.index}: not valid JSON, or the file was cut") from error
                continue
            if end == len(self.text) and not isinstance(value, dict) and self._more():
                continue  # a number might go on
            if not isinstance(value, dict):
                raise DataError(f"{self.name}: item {self.index}: must be a JSON object")
            self.place = end
            return value

    def _peek(self) -> str:
        """The next character that is no space, or nothing at the end."""
        while True:
            match = _SPACE.match(self.text, self.place)
            assert match is not None
            self.place = match.end()
            if self.place < len(self.text):
                return self.text[self.place]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Drop what was read and append a chunk; the larger the item at hand, the larger the chunk."""
        chunk = self.stream.read(max(CHUNK_CHARACTERS, len(self.text) - self.place))
        self.text, self.place = self.text[self.place :] + chunk, 0
        return bool(chunk)

"""Text of a growing list of token ids: piece by piece, never half a character."""

from collections.abc import Sequence

from vilam3.model.tokenizer import PieceTokenizer

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Detokeniser:
    """Turns token ids into text as they come; the pieces together are exactly the stripped whole text.

    Blanks at either end are held back, as the published demo strips its replies, and so is a character whose bytes are
    not all there. Only a short window is decoded each time, so a long reply costs no more per token than a short one.
    """

    def __init__(self, tokenizer: PieceTokenizer) -> None:
        """Start with nothing."""
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""
        self._window = 0  # first id of the decoded window
        self._emitted = 0  # ids before this one are in `text` or held blanks
        self._held = ""

    def add(self, ids: Sequence[int]) -> str:
        """Take more ids and return the text that is now certain."""
        self.ids.extend(ids)
        known = self.tokenizer.decode(self.ids[self._window : self._emitted])
        now = self.tokenizer.decode(self.ids[self._window :])
        if now.endswith(UNFINISHED) or len(now) <= len(known):
            return ""
        self._window, self._emitted = self._emitted, len(self.ids)
        return self._release(now[len(known) :])

    def finish(self) -> str:
        """Return what was held; bytes that never became a character are dropped."""
        known = self.tokenizer.decode(self.ids[self._window : self._emitted])
        now = self.tokenizer.decode(self.ids[self._window :]).rstrip(UNFINISHED)
        return self._release(now[len(known) :]) if len(now) > len(known) else ""

    def _release(self, piece: str) -> str:
        piece = self._held + piece
        if not self.text:
            piece = piece.lstrip()
        certain = piece.rstrip()
        self._held = piece[len(certain) :]
        self.text += certain
        return certain

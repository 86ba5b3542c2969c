"""What an engine's thread hands to a caller's: token ids through a mailbox, of which the caller's thread makes text."""

import math
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vilam3.dialogue.messages import Generation
from vilam3.errors import VilaM3Error
from vilam3.model.detokenise import Detokeniser

POLL_S = 0.05  # how often a caller who waits for a token may look at something else
PATIENT_S = 1.0  # likewise one who waits for the whole: many who look often take the engine's processors from it
# How often tokens are handed over, after the first. Sooner than anyone reads; but each time a caller's thread takes the
# interpreter, which the engine's thread needs for the next pass.
TELL_EVERY_S = 0.03
Reason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """No token follows."""

    reason: Reason


@dataclass(slots=True, kw_only=True, eq=False)
class Mailbox:
    """Between the two threads; `say` and `end` are for the engine's.

    Attributes:
        prompt_tokens: Positions of the prompt.
        every_s: How often tokens are handed over.
        said: Tokens so far, the end token included.
        reused: Positions that were remembered.
        cancelled: Set by the caller.
        told: What the caller has yet to read.
    """

    prompt_tokens: int
    every_s: float = TELL_EVERY_S
    said: list[int] = field(default_factory=list)
    reused: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    told: "queue.SimpleQueue[list[int] | End | VilaM3Error]" = field(default_factory=queue.SimpleQueue)
    _gathered: list[int] = field(default_factory=list)
    _next_s: float = -math.inf

    def say(self, token: int, *, now_s: float) -> None:
        """Hand over the first token at once, and those that follow together with their neighbours."""
        self._gathered.append(token)
        if now_s >= self._next_s:
            self._next_s = now_s + self.every_s
            self._hand_over()

    def end(self, last: End | VilaM3Error) -> None:
        """Hand over what is left, and the end."""
        self._hand_over()
        self.told.put(last)

    def _hand_over(self) -> None:
        if self._gathered:
            self.told.put(self._gathered)
            self._gathered = []


class DecodingTicket:
    """`vilam3.dialogue.messages.Ticket` of a request; to be iterated once."""

    def __init__(
        self, mailbox: Mailbox, text: Detokeniser, *, wake: Callable[[], None], stops: Sequence[str] = ()
    ) -> None:
        """Read what is told.

        Args:
            mailbox: Of a request that is queued already.
            text: Empty.
            wake: Lets the engine's thread look at what was cancelled.
            stops: The reply ends after one of these, and keeps it.
        """
        self.mailbox = mailbox
        self._text = text
        self._wake = wake
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._poll_s = PATIENT_S if math.isinf(mailbox.every_s) else POLL_S

    def cancel(self) -> None:
        """See `Ticket.cancel`."""
        self.mailbox.cancelled.set()
        self._wake()

    def __iter__(self) -> Generator[str | Generation]:
        """See `Engine.stream`; leaving it early cancels the request."""
        try:
            while True:
                ids, end = self._newest()
                known = len(self._text.text)
                stop = self._read(ids, is_last=end is not None)
                piece = self._text.text[known:stop]
                if piece or end is None:
                    yield piece
                if stop is not None:
                    yield self._generation("stop", text=self._text.text[:stop], num_said=len(self._text.ids))
                    return
                if end is not None:
                    yield self._generation(end.reason, text=self._text.text, num_said=len(self.mailbox.said))
                    return
        finally:
            self.cancel()

    def _newest(self) -> tuple[list[int], End | None]:
        """All tokens that have come, and the end if it has; nothing after a moment."""
        ids: list[int] = []
        try:
            told = self.mailbox.told.get(timeout=self._poll_s)
            while isinstance(told, list):
                ids.extend(told)
                told = self.mailbox.told.get_nowait()
        except queue.Empty:
            return ids, None
        if isinstance(told, VilaM3Error):
            raise told
        return ids, told

    def _read(self, ids: Sequence[int], *, is_last: bool) -> int | None:
        """Make text of them; where it ends by a stop text, if it does: tokens after that are not read."""
        groups = [[each] for each in ids] if self._stops else [ids]
        for group in groups if ids else ():
            known = len(self._text.text)
            if self._text.add(group) and (stop := self._stopped(since=known)) is not None:
                return stop
        known = len(self._text.text)
        return self._stopped(since=known) if is_last and self._text.finish() else None

    def _stopped(self, *, since: int) -> int | None:
        """Where the first stop text ends that was completed after so many characters."""
        text, begin = self._text.text, max(0, since - self._longest + 1)
        places = (text.find(stop, begin) + len(stop) for stop in self._stops if stop in text[begin:])
        return min(places, default=None)

    def _generation(self, reason: Reason, *, text: str, num_said: int) -> Generation:
        return Generation(
            text=text,
            prompt_tokens=self.mailbox.prompt_tokens,
            completion_tokens=num_said,
            finish_reason=reason,
            reused_tokens=self.mailbox.reused,
        )

"""What an engine's thread hands to a caller's: token ids through a mailbox, of which the caller's thread makes text."""

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vilam3.dialogue.messages import Generation
from vilam3.errors import VilaM3Error
from vilam3.model.detokenise import Detokeniser

POLL_S = 0.05  # how often a caller who waits for a token may look at something else
Reason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """No token follows."""

    reason: Reason


@dataclass(slots=True, kw_only=True, eq=False)
class Mailbox:
    """Between the two threads.

    Attributes:
        prompt_tokens: Positions of the prompt.
        said: Tokens so far, the end token included.
        reused: Positions that were remembered.
        cancelled: Set by the caller.
        told: What the caller has yet to read.
    """

    prompt_tokens: int
    said: list[int] = field(default_factory=list)
    reused: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    told: "queue.SimpleQueue[int | End | VilaM3Error]" = field(default_factory=queue.SimpleQueue)


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

    def cancel(self) -> None:
        """See `Ticket.cancel`."""
        self.mailbox.cancelled.set()
        self._wake()

    def __iter__(self) -> Generator[str | Generation]:
        """See `Engine.stream`; leaving it early cancels the request."""
        try:
            while True:
                ids, end = self._newest()
                known = self._text.text
                piece = self._text.add(ids) if ids else ""
                if end is not None:
                    piece += self._text.finish()
                if piece and (stop := self._stopped(since=len(known))) is not None:
                    yield self._text.text[len(known) : stop]
                    yield self._generation("stop", text=self._text.text[:stop], num_said=len(self._text.ids))
                    return
                if piece or end is None:
                    yield piece
                if end is not None:
                    yield self._generation(end.reason, text=self._text.text, num_said=len(self.mailbox.said))
                    return
        finally:
            self.cancel()

    def _newest(self) -> tuple[list[int], End | None]:
        """All tokens that have come, and the end if it has; nothing after a moment."""
        ids: list[int] = []
        try:
            told = self.mailbox.told.get(timeout=POLL_S)
            while isinstance(told, int):
                ids.append(told)
                told = self.mailbox.told.get_nowait()
        except queue.Empty:
            return ids, None
        if isinstance(told, VilaM3Error):
            raise told
        return ids, told

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

"""A reply that was asked for, of an engine that only streams: it is begun when it is first looked at."""

import threading
from collections.abc import Callable, Iterator

from vilam3.dialogue.messages import Generation

Stream = Callable[[threading.Event], Iterator[str | Generation]]


class StreamTicket:
    """`vilam3.dialogue.messages.Ticket` over a stream that ends soon after its event is set."""

    def __init__(self, stream: Stream) -> None:
        """Wrap `stream`, which is given the event that cancels it."""
        self._cancelled = threading.Event()
        self._stream = stream

    def __iter__(self) -> Iterator[str | Generation]:
        """See `Ticket`."""
        return self._stream(self._cancelled)

    def cancel(self) -> None:
        """See `Ticket`."""
        self._cancelled.set()

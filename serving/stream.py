"""Server-sent events: OpenAI's chunks, with our typed events in chunks whose delta is empty.

The joined `content` of a stream is the `content` of the same answer unstreamed. A reply that calls an expert is not
part of it, and whether a reply does is known only at its end; so while experts may be called, a reply is held back
until it ends or grows longer than calls are (`HELD_CHARACTERS`), and its pieces go out meanwhile as ``vilam3`` events.
In the rare case that a long reply calls an expert after all, the stream shows it too, and the last chunk's
``vilam3.answer`` says which part is the answer.
"""

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

from serving import refusals, sse
from serving.answer import Running
from serving.completion import Answered, ExpertEnded, beside
from serving.presence import Gone
from serving.recorder import Progress
from serving.wire import MODEL_NAME
from vilam3.dialogue.events import ExpertProgressed, ExpertStarted, ReplyFinished, TextPiece
from vilam3.errors import VilaM3Error

HELD_CHARACTERS = 240

log = logging.getLogger(__name__)


async def events(running: Running, *, gone: Gone, holds_back: bool, include_usage: bool) -> AsyncIterator[str]:
    """The body of a streamed answer.

    Args:
        running: The dialogue.
        gone: Whether the caller has left.
        holds_back: Whether a reply may turn out to be a call.
        include_usage: Send a last chunk with the token counts.
    """
    writer = Writer(running.answer_id, running.created, holds_back=holds_back)
    yield writer.chunk({"role": "assistant", "content": ""})
    try:
        async for batch in running.progress(gone=gone):
            lines = "".join(line for event in batch for line in writer.lines(event))
            if lines:
                yield lines
            if include_usage and isinstance(batch[-1], Answered):
                yield writer.usage(batch[-1])
    except VilaM3Error as error:
        yield sse.data(refusals.body(error))
    except Exception as error:  # noqa: BLE001 - the status line is gone: what is left is to say so in the stream
        log.error("stream failed: %s", type(error).__name__)  # noqa: TRY400 - messages may quote the request
        yield sse.data(refusals.body(error))
    yield sse.DONE


class Writer:
    """Turns events into lines; remembers what of the content has gone out."""

    def __init__(self, answer_id: str, created: int, *, holds_back: bool) -> None:
        """Begin with nothing sent."""
        self._head = {
            "id": answer_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": MODEL_NAME,
        }
        self._holds_back = holds_back
        self._held = ""
        self._sent = ""
        self._is_live = not holds_back

    def lines(self, event: Progress) -> Iterator[str]:
        """The lines for one event."""
        match event:
            case TextPiece():
                yield from self._piece(event)
            case ReplyFinished():
                self._held, self._is_live = "", not self._holds_back
                yield self._typed("reply.finished", round=event.round_index, text=event.generation.text)
            case ExpertStarted():
                yield self._typed(
                    "expert.started",
                    index=event.index,
                    round=event.round_index,
                    expert=event.call.expert,
                    argument=event.call.argument,
                )
            case ExpertProgressed():
                yield self._typed("expert.progress", index=event.index, fraction=event.fraction)
            case ExpertEnded():
                name = "expert.failed" if event.record["error"] else "expert.finished"
                yield self._typed(name, index=event.index, **event.record)
            case Answered():
                yield from self._last(event)

    def chunk(
        self, delta: dict[str, Any], *, finish_reason: str | None = None, event: str = "", **extra: object
    ) -> str:
        """One plain chunk."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return sse.data({**self._head, "choices": [choice], **extra}, event=event)

    def usage(self, answered: Answered) -> str:
        """The chunk with the token counts; it has no choice, as OpenAI's has none."""
        return sse.data({**self._head, "choices": [], "usage": answered.usage.model_dump()})

    def _piece(self, event: TextPiece) -> Iterator[str]:
        if self._is_live:
            yield self._content(event.text)
            return
        self._held += event.text
        yield self._typed("reply.piece", round=event.round_index, text=event.text)
        if len(self._held) > HELD_CHARACTERS and "<" not in self._held:
            self._is_live = True
            yield self._content(("\n\n" if self._sent else "") + self._held)

    def _last(self, answered: Answered) -> Iterator[str]:
        """What of the content has not gone out yet, then the end."""
        if answered.content.startswith(self._sent):
            rest = answered.content[len(self._sent) :]
        elif self._sent.endswith(answered.text):
            rest = answered.content[len(answered.text) :]
        else:
            rest = "\n\n" + answered.content
        if rest:
            yield self._content(rest)
        yield self.chunk({}, finish_reason=answered.finish_reason, vilam3={"event": "answer", **beside(answered)})

    def _content(self, text: str) -> str:
        self._sent += text
        return self.chunk({"content": text})

    def _typed(self, name: str, **fields: object) -> str:
        return self.chunk({}, event=name, vilam3={"event": name, **fields})

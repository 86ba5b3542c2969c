"""Server-sent events: how a value becomes a line of a stream, and the response that carries them."""

import json
from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse

DONE = "data: [DONE]\n\n"


def data(value: object, *, event: str = "") -> str:
    """One event with a JSON value, named where a name is given."""
    named = f"event: {event}\n" if event else ""
    return f"{named}data: {json.dumps(value, separators=(',', ':'), allow_nan=False)}\n\n"


def response(lines: AsyncIterator[str]) -> StreamingResponse:
    """A stream that no proxy holds back."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)

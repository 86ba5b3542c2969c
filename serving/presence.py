"""Whether the caller of the request at hand is still there, for code that a framework calls without the request."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from starlette.types import Message, Receive, Scope, Send

from serving.middleware import Around

Gone = Callable[[], Awaitable[bool]]


async def _never() -> bool:
    return False


_gone: ContextVar[Gone] = ContextVar("gone", default=_never)


def gone() -> Gone:
    """Tells whether the caller of this request has left; outside of a request nobody leaves."""
    return _gone.get()


class Presence(Around):
    """Notes for each request how to find out; inside of whatever bounds the body."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        has_left, is_read = False, False
        pending: asyncio.Future[Message] | None = None

        async def noted() -> Message:
            nonlocal has_left, is_read
            message = await receive()
            is_read = is_read or (message["type"] == "http.request" and not message.get("more_body", False))
            has_left = has_left or message["type"] == "http.disconnect"
            return message

        async def is_gone() -> bool:
            nonlocal pending, has_left
            if not has_left and is_read:  # before the body is read, the next message is the handler's
                pending = pending or asyncio.ensure_future(receive())
                await asyncio.sleep(0)
                has_left = pending.done() and pending.result()["type"] == "http.disconnect"
            return has_left

        token = _gone.set(is_gone)
        try:
            await self._app(scope, noted, send)
        finally:
            _gone.reset(token)
            if pending is not None:
                pending.cancel()

"""The page for people at ``/``: the bundle that ``make page`` writes, behind headers that let nothing else in.

The page itself is open, as it holds nothing; what it asks for carries the caller's key like every other request.
"""

from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

BUNDLE = Path(__file__).parent / "page" / "dist"
HEADERS: Mapping[str, str] = {
    # pictures and volumes come as blobs, since an address alone could not carry the key; Niivue's font is in a data URL
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
ABSENT = (
    "<!doctype html><html lang=en><title>vilam3</title><p>The endpoint is up, but its page has not been built: run "
    "make page where the server's files are, and start it again. The routes below /v1 need no page."
)


def install(app: FastAPI, bundle: Path = BUNDLE) -> None:
    """Serve the page, or say that it has not been built."""
    index = bundle / "index.html"
    is_built = index.is_file()

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(index, headers=HEADERS) if is_built else HTMLResponse(ABSENT, headers=HEADERS)

    if is_built:
        app.mount("/page", Guarded(directory=bundle), name="page")


class Guarded(StaticFiles):
    """Files of the bundle with the page's headers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one file."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await super().__call__(scope, receive, guarded)

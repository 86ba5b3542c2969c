"""A stub of the language model's service: 30 tokens a second, each with the moment it left, and a bare reverse proxy.

``python -m bench.stub_engine PORT`` streams; ``--broken`` refuses every question; ``--proxy URL`` passes everything on
to URL and back, piece by piece, as the least that a hop can be. It is measured against, and measures nothing itself.
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

RATE_HZ = 30.0
TOKENS = 60
EVENTS = "text/event-stream"
CARD = {"id": "vlm", "object": "model", "digest": "d" * 64, "dialect": "demo", "engine": "stub"}


def engine(*, is_broken: bool) -> FastAPI:
    """The stub."""
    app = FastAPI()

    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.get("/v1/models/vlm")
    async def card() -> dict[str, Any]:
        return CARD

    @app.post("/v1/chat/completions")
    async def chat(_: Request) -> Response:
        if is_broken:
            return JSONResponse({"error": {"message": "out of order", "type": "server_error"}}, status_code=500)
        return StreamingResponse(_tokens(), media_type=EVENTS)

    return app


async def _tokens() -> AsyncIterator[str]:
    begin = time.perf_counter()
    for number in range(TOKENS):
        await asyncio.sleep(max(0.0, begin + number / RATE_HZ - time.perf_counter()))
        yield _chunk({"content": f"{' ' if number else ''}{time.perf_counter():.6f}"})
    yield _chunk({}, finish_reason="stop")
    yield "data: [DONE]\n\n"


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"


def proxy(target: str) -> FastAPI:
    """The least that a hop can be."""
    app = FastAPI()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    client = httpx.AsyncClient(base_url=target, trust_env=False, timeout=60, limits=limits)

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def passed(path: str, request: Request) -> Response:
        headers = {"content-type": request.headers.get("content-type", "application/json")}
        asked = client.build_request(request.method, f"/{path}", content=await request.body(), headers=headers)
        answer = await client.send(asked, stream=True)

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for piece in answer.aiter_raw():
                    yield piece
            finally:
                await answer.aclose()

        return StreamingResponse(pieces(), status_code=answer.status_code, media_type=answer.headers["content-type"])

    return app


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--broken", action="store_true")
    parser.add_argument("--proxy", default="")
    given = parser.parse_args()
    app = proxy(given.proxy) if given.proxy else engine(is_broken=given.broken)
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()

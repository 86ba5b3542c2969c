"""Readiness and liveness as Kubernetes should see them.

Ready is what has the parts that it needs, until SIGTERM. Alive is what a restart would not help; so an engine that has
failed and does not recover gets its container restarted instead of standing there unready. KServe's own readiness
follows its models, which must go on answering while the server ends; these routes stand before its own.
"""

from collections.abc import Callable

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse

READY_PATH = "/v2/health/ready"
LIVE_PATH = "/v2/health/live"
UNAVAILABLE = 503

router = APIRouter()


class Health:
    """Whether this process wants requests."""

    def __init__(self, lacking: Callable[[], str] = lambda: "", *, broken: Callable[[], str] = lambda: "") -> None:
        """Ask these each time.

        Args:
            lacking: What is not there yet, or nothing.
            broken: What will never work again in this process, or nothing.
        """
        self._lacking = lacking
        self.broken = broken
        self.is_ending = False

    def trouble(self) -> str:
        """Why no request is wanted, or nothing."""
        return "the server is ending" if self.is_ending else self.broken() or self._lacking()


def install(app: FastAPI, health: Health) -> None:
    """Put the routes on an application, before its own."""
    app.state.health = health
    app.include_router(router)


@router.get(READY_PATH, response_model=None)
async def ready(request: Request) -> JSONResponse:
    """Whether requests are wanted."""
    health: Health = request.app.state.health
    return _told("ready", trouble=health.trouble())


@router.get(LIVE_PATH, response_model=None)
async def live(request: Request) -> JSONResponse:
    """Whether a restart is not needed."""
    health: Health = request.app.state.health
    return _told("live", trouble=health.broken())


def _told(word: str, *, trouble: str) -> JSONResponse:
    if trouble:
        return JSONResponse({word: False, "reason": trouble}, status_code=UNAVAILABLE)
    return JSONResponse({word: True})

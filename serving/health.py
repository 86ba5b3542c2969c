"""Readiness as Kubernetes should see it: false until the parts needed answer, and false again from SIGTERM on.

KServe's own readiness follows its models, which must go on answering while the server ends; this route stands before
it.
"""

from collections.abc import Callable

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse

READY_PATH = "/v2/health/ready"
UNAVAILABLE = 503

router = APIRouter()


class Health:
    """Whether this process wants requests."""

    def __init__(self, lacking: Callable[[], str] = lambda: "") -> None:
        """Ask `lacking` each time; it says what is not there yet, or nothing."""
        self._lacking = lacking
        self.is_ending = False

    def trouble(self) -> str:
        """Why no request is wanted, or nothing."""
        return "the server is ending" if self.is_ending else self._lacking()


def install(app: FastAPI, health: Health) -> None:
    """Put the route on an application, before its own."""
    app.state.health = health
    app.include_router(router)


@router.get(READY_PATH, response_model=None)
async def ready(request: Request) -> JSONResponse:
    """Whether requests are wanted."""
    health: Health = request.app.state.health
    trouble = health.trouble()
    if trouble:
        return JSONResponse({"ready": False, "reason": trouble}, status_code=UNAVAILABLE)
    return JSONResponse({"ready": True})

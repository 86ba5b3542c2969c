"""``/v1/models``: what a process serves, for OpenAI clients (`data`), KServe clients (`models`) and probes."""

from collections.abc import Mapping
from typing import Any, Protocol

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse

from vilam3.errors import NotFoundError

router = APIRouter(default_response_class=JSONResponse)


class Admitting(Protocol):
    """Knows who may ask."""

    def of(self, headers: Mapping[str, str]) -> str:
        """The tenant of a request, or `UnauthorizedError`."""
        ...


class Shown(Protocol):
    """A service that shows a card."""

    @property
    def model(self) -> str:
        """Its model's name."""
        ...

    @property
    def tenants(self) -> Admitting:
        """Who may ask."""
        ...

    def card(self) -> dict[str, Any]:
        """What is said of the model; `id` is its name."""
        ...


def install(app: FastAPI, service: Shown) -> None:
    """Put the routes on an application, before its own."""
    app.state.shown = service
    app.include_router(router)


def card_of(name: str, /, *, created: int, **told: object) -> dict[str, Any]:
    """A card: OpenAI's model object with ours beside it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "vilam3", **told}


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The one model."""
    service: Shown = request.app.state.shown
    service.tenants.of(request.headers)
    return {"object": "list", "data": [service.card()], "models": [service.model]}


@router.get("/v1/models/{name}")
async def model(name: str, request: Request) -> dict[str, Any]:
    """The model's card and readiness; open, because probes carry no key."""
    service: Shown = request.app.state.shown
    if name != service.model:
        raise NotFoundError(f"model {name!r}: not served here; use {service.model!r}")
    return {**service.card(), "name": service.model, "ready": not getattr(service, "lacking", "")}

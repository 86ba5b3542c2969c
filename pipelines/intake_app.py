"""The intake by HTTP: whoever may ask for a run, MLflow's webhooks and the notices of an object store."""

import time
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool

from serving import guard, refusals
from serving.refusals import UnauthorizedError
from serving.tenants import Tenants
from vilam3.errors import TooLargeError
from vilam3.intake.contents import check_remote
from vilam3.intake.event import Answer, Decision
from vilam3.intake.notices import is_from_mlflow, landed, moved_alias
from vilam3.intake.triggers import Triggers
from vilam3.recipe import Recipe

MOST_BYTES = 1 << 20
STATUS: dict[Decision, int] = {"started": 201, "already": 200, "held": 202, "refused": 409, "dry-run": 200}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What the routes need.

    Attributes:
        triggers: The intake and what its installation stands for.
        tenants: Who may ask.
        mlflow_secret: Of MLflow's webhook; empty where it has none, and then its messages are refused.
    """

    triggers: Triggers
    tenants: Tenants
    mlflow_secret: str = field(default="", repr=False)


class Asking(BaseModel):
    """A request for a run; what is left out is the installation's."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    corpus: str = ""
    """s3:// URI of a prepared corpus."""
    base_checkpoint: str = ""
    """s3:// URI of the checkpoint to start from, or models:/name@alias."""
    experts: str = ""
    """s3:// URI of a directory of expert bundles."""
    recipe: Recipe | None = None
    """Resolved recipe; with resources as the published pipeline has them."""
    again: bool = False
    """Start another run where the last of this content has failed."""
    dry_run: bool = False
    """Estimate only."""


class Answers(BaseModel):
    """What came of a notice; nothing where it concerns nothing here."""

    answers: list[Answer]


class Fault(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str


class Refusal(BaseModel):
    """Every error has this form."""

    error: Fault


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": what}
    for status, what in {
        400: "The request is not understood, or names what is not there.",
        401: "No key or signature, or one that is not known.",
        404: "A place that the request or the installation names is not there.",
        413: "The body is too large.",
        500: "The object store failed; the event is taken up later if it was kept.",
        503: "The pipelines' server failed; the event is kept and taken up later.",
    }.items()
}
router = APIRouter()


def service_of(request: Request) -> Service:
    """The service behind the application."""
    service: Service = request.app.state.intake
    return service


def tenant_of(request: Request) -> str:
    """Who asks.

    Raises:
        UnauthorizedError: the key is missing or unknown.
    """
    return service_of(request).tenants.of(request.headers)


Served = Annotated[Service, Depends(service_of)]
Tenant = Annotated[str, Depends(tenant_of)]


def application(service: Service) -> FastAPI:
    """The whole of it."""
    app = FastAPI(title="vilam3 intake", docs_url=None, redoc_url=None)
    app.state.intake = service
    app.include_router(router)
    refusals.install(app)
    guard.install(app)
    return app


@router.post(
    "/v1/retraining",
    response_model=Answer,
    responses={
        **REFUSALS,
        200: {"model": Answer, "description": "There is a run of this content already, or it was an estimate only."},
        201: {"model": Answer, "description": "A run was started."},
        202: {"model": Answer, "description": "The event is kept until the installation's rules let it start."},
        409: {"model": Answer, "description": "Asked again though the run of this content has not failed."},
    },
)
def retrain(asking: Asking, service: Served, _tenant: Tenant) -> JSONResponse:
    """Ask for a run. The same content any number of times is one run."""
    standing = service.triggers.standing
    given = {"corpus": asking.corpus, "base_checkpoint": asking.base_checkpoint, "experts": asking.experts}
    recipe = asking.recipe.resolved_json() if asking.recipe else ""
    event = standing.event("rest", **given, recipe=recipe)
    own = {standing.base_checkpoint, standing.experts, standing.newest()}
    check_remote({name: place for name, place in event.places.model_dump().items() if place not in own})
    answer = service.triggers.intake.submit(event, again=asking.again, dry_run=asking.dry_run)
    return JSONResponse(answer.model_dump(mode="json"), status_code=STATUS[answer.decision])


@router.post("/v1/retraining/mlflow", responses=REFUSALS)
async def from_mlflow(request: Request, service: Served) -> Answers:
    """MLflow's webhook of `model_version_alias.created`, signed with its secret; other events change nothing."""
    body = await _small_body(request)
    secret = service.mlflow_secret
    if not secret or not is_from_mlflow(request.headers, body, secret=secret, now_s=time.time()):
        raise UnauthorizedError("webhook: not signed by MLflow with the secret set here, or too old; check the secret")
    uri = moved_alias(body)
    return Answers(answers=await run_in_threadpool(service.triggers.base_moved, uri))


@router.post("/v1/retraining/s3", responses=REFUSALS)
async def from_store(request: Request, service: Served, _tenant: Tenant) -> Answers:
    """The notice of an object store, as MinIO and AWS send it, with an API key as its token."""
    objects = landed(await _small_body(request))
    return Answers(answers=await run_in_threadpool(service.triggers.objects_landed, objects))


@router.get("/healthz")
async def healthz() -> dict[str, bool]:
    """Whether the process answers; what it needs is asked with each event."""
    return {"alive": True}


async def _small_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise TooLargeError(f"body: more than {MOST_BYTES >> 10} KiB; send one message at a time")
    return body

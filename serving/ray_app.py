"""The same services as Ray Serve deployments: ``serving.ray_app:app`` in a RayService.

One deployment for the language model, one for each expert, and the public endpoint in front of them; Ray scales and
places each by itself, and may put several experts on one accelerator. Calls go through Ray's handles in place of HTTP.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serving import app as routes
from serving import garbage, health, metrics, orchestrator
from serving.answer import Budget, Terms
from serving.expert import ExpertService
from serving.health import Health
from serving.tenants import Tenants, from_environment
from vilam3 import log
from vilam3.consultant import load
from vilam3.dialogue.messages import EngineStats, Generation, Message, Sampling
from vilam3.dialogue.tickets import StreamTicket
from vilam3.engines import EngineChoice
from vilam3.errors import EngineError, ExpertError, UserError, VilaM3Error
from vilam3.experts.protocol import Watch
from vilam3.experts.roster import Listed
from vilam3.objects import open_store
from vilam3.services.engine import MODEL, ModelCard
from vilam3.services.experts import Elsewhere
from vilam3.services.findings import Consultation, Finding
from vilam3.services.visit import Waits
from vilam3.shelf import Shelf

BEHIND_A_PROXY = "the proxy of Ray"  # which is reached from elsewhere, as a rule
AUTOSCALING = {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 2}
ON_ITS_OWN = {"max_ongoing_requests": 4, "autoscaling_config": AUTOSCALING}
PLAIN, USUAL = EngineChoice(), Budget()
CARD_S = 30.0
HANDLE_TICK_S = 0.25


class Settings(BaseModel):
    """The ``args`` of the application in ``serveConfigV2``.

    Attributes:
        model: Checkpoint directory or registered version.
        experts: Directory of the expert bundles.
        studies: Store of studies, which every node reaches.
        deadline_s: Longest time for one answer.
        expert_seconds: All its experts together.
        experts_at_a_time: Experts of one reply side by side.
        per_tenant: Answers at a time for one key.
        remember: Whether what experts have found is given again.
        slots: Replies that a replica of the language model decodes side by side.
        waiting: Requests that may wait in it besides.
        memory_gib: For what it remembers of prompts and pictures.
        without_keys: Answer though there are no API keys: something else decides who reaches the proxy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    experts: str | None = None
    studies: str
    deadline_s: float = USUAL.deadline_s
    expert_seconds: float = USUAL.expert_seconds
    experts_at_a_time: int = Field(default=USUAL.side_by_side, ge=1)
    per_tenant: int = Field(default=USUAL.per_tenant, ge=1)
    remember: bool = True
    slots: int = Field(default=PLAIN.slots, ge=1)
    waiting: int = Field(default=PLAIN.waiting, ge=0)
    memory_gib: float = Field(default=PLAIN.memory_gib, ge=0)
    without_keys: bool = False

    def engine(self) -> EngineChoice:
        """What decodes, and its bounds."""
        return EngineChoice(slots=self.slots, waiting=self.waiting, memory_gib=self.memory_gib)

    def terms(self) -> Terms:
        """On which answers are given."""
        budget = Budget(
            deadline_s=self.deadline_s,
            expert_seconds=self.expert_seconds,
            side_by_side=self.experts_at_a_time,
            per_tenant=self.per_tenant,
        )
        return Terms(budget=budget, remembers=self.remember)

    def batched(self) -> dict[str, Any]:
        """Options of the language model's deployment, which decodes its requests side by side."""
        scaling = {**AUTOSCALING, "target_ongoing_requests": max(1, self.slots // 2)}
        return {"max_ongoing_requests": self.slots, "autoscaling_config": scaling}


@serve.deployment
class LanguageModel:
    """The language model."""

    def __init__(self, model: str, engine: EngineChoice) -> None:
        """Load it."""
        log.setup()
        self._consultant = load(model, engine=engine)
        garbage.settle()

    def card(self) -> ModelCard:
        """What is said of it."""
        consultant = self._consultant
        return ModelCard(digest=consultant.model_digest, dialect=consultant.dialect, engine=consultant.engine.name)

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str | Generation]:
        """One reply; ends with its reader."""
        left = threading.Event()
        try:
            yield from self._consultant.engine.stream(messages, sampling, cancelled=left)
        finally:
            left.set()


@serve.deployment(**ON_ITS_OWN)
class Expert:
    """One expert."""

    def __init__(self, name: str, experts: str, studies: str) -> None:
        """Open it, load its weights and let it run once; the replica is ready after that."""
        from vilam3.experts.registry import Registry  # noqa: PLC0415 - torch and MONAI take seconds to import

        log.setup()
        self._service = ExpertService(
            name=name,
            opened=lambda dialect: Registry.load(Path(experts), only=[name], dialect=dialect),
            shelf=Shelf(open_store(studies)),
            tenants=Tenants(),
        )
        self._service.registry().warm_up()
        garbage.settle()

    async def consult(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Answer one question; a refusal is told, since Ray would wrap it in a trace."""
        try:
            finding = await self._service.consult(Consultation.model_validate(asked))
            return finding.model_dump(mode="json")
        except VilaM3Error as error:
            return {"error": str(error)}


class HandleEngine:
    """`vilam3.dialogue.messages.Engine` of a deployment."""

    def __init__(self, handle: DeploymentHandle) -> None:
        """Talk through `handle`."""
        self.name = MODEL
        self._handle = handle

    def card(self) -> ModelCard:
        """See `serving.orchestrator.KnownEngine`."""
        try:
            card: ModelCard = self._handle.card.remote().result(timeout_s=CARD_S)
        except (RayServeException, TimeoutError) as error:
            raise EngineError(f"engine {self.name}: no replica answers ({type(error).__name__})") from error
        self.name = card.engine
        return card

    def close(self) -> None:
        """Ray keeps the connections."""

    def submit(self, messages: Sequence[Message], sampling: Sampling, *, priority: int = 0) -> StreamTicket:  # noqa: ARG002 - Ray queues by arrival
        """See `vilam3.dialogue.messages.Engine`."""
        return StreamTicket(lambda cancelled: self.stream(messages, sampling, cancelled=cancelled))

    def stats(self) -> EngineStats:
        """See `vilam3.dialogue.messages.Engine`; each replica tells its own."""
        return EngineStats()

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, *, cancelled: threading.Event | None = None
    ) -> Iterator[str | Generation]:
        """See `vilam3.dialogue.messages.Engine`."""
        pieces = self._handle.options(stream=True).stream.remote(messages, sampling)
        try:
            for piece in pieces:
                if cancelled is not None and cancelled.is_set():
                    return
                yield piece
        finally:
            pieces.cancel()

    def generate(self, batch: Sequence[Sequence[Message]], sampling: Sampling) -> list[Generation]:
        """See `vilam3.dialogue.messages.Engine`."""
        return [self._whole(messages, sampling) for messages in batch]

    def _whole(self, messages: Sequence[Message], sampling: Sampling) -> Generation:
        with closing(cast("Any", self.stream(messages, sampling))) as pieces:
            *_, last = pieces
        return cast("Generation", last)


class HandleExperts(Elsewhere):
    """`vilam3.consultant.Experts` of deployments."""

    def __init__(self, handles: Mapping[str, DeploymentHandle], listed: Sequence[Listed]) -> None:
        """Talk through `handles`, by the experts' names."""
        super().__init__(listed)
        self._handles = handles

    def consult(self, name: str, asked: Consultation, watch: Watch) -> Finding:
        """See `Elsewhere.consult`."""
        response = self._handles[name].consult.remote(asked.model_dump(mode="json"))
        told = _awaited(response, watch, name=name)
        if "error" in told:
            raise ExpertError(told["error"])
        return Finding.model_validate(told)


def _awaited(response: Any, watch: Watch, *, name: str) -> dict[str, Any]:  # noqa: ANN401 - Ray's
    """The reply of a deployment, or an error at once when nobody waits for it any more."""
    end = time.monotonic() + Waits().total_s
    try:
        while time.monotonic() < end:
            watch(0.0)
            with contextlib.suppress(TimeoutError):
                told: dict[str, Any] = response.result(timeout_s=HANDLE_TICK_S)
                return told
        raise ExpertError(f"it did not finish within {Waits().total_s:g} s.")
    except RayServeException as error:
        raise ExpertError(f"the service of {name} broke off ({type(error).__name__}).") from error
    except VilaM3Error:
        response.cancel()
        raise


@serve.deployment(max_ongoing_requests=64)
@serve.ingress()
class Endpoint:
    """The public routes, as everywhere."""

    def __init__(
        self,
        settings: dict[str, Any],
        model: DeploymentHandle,
        experts: dict[str, DeploymentHandle],
        listed: list[Listed],
    ) -> None:
        """Talk to the other deployments."""
        log.setup()
        logging.getLogger("httpx").setLevel(logging.WARNING)
        given = Settings(**settings)
        self._known = orchestrator.Acquaintance(HandleEngine(model))
        self._known.begin()
        self._service = orchestrator.service(
            self._known,
            HandleExperts(experts, listed) if experts else None,
            objects=open_store(given.studies),
            tenants=from_environment(host=BEHIND_A_PROXY, without_keys=given.without_keys),
            terms=given.terms(),
        )
        metrics.declare(tuple(experts))
        garbage.settle()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application that this replica serves."""
        application = FastAPI()
        health.install(application, Health(self._known.lacking))
        routes.install(application, self._service)
        return application


def app(settings: Settings) -> serve.Application:
    """Build the application; the import path of a RayService."""
    # Decorated classes are deployments, which type checkers do not see.
    model, expert, endpoint = cast("tuple[Any, Any, Any]", (LanguageModel, Expert, Endpoint))
    listed = _listed(settings)
    experts = {
        one.name: expert.options(name=one.name).bind(one.name, settings.experts, settings.studies) for one in listed
    }
    language_model = model.options(**settings.batched()).bind(settings.model, settings.engine())
    application: serve.Application = endpoint.bind(settings.model_dump(), language_model, experts, listed)
    return application


def _listed(settings: Settings) -> list[Listed]:
    """The experts in the directory, as they describe themselves."""
    if settings.experts is None:
        return []
    from vilam3.experts.registry import Registry  # noqa: PLC0415 - torch and MONAI take seconds to import

    registry = Registry.load(Path(settings.experts))
    if not registry.names:
        raise UserError(f"experts {settings.experts}: no expert is in there; put bundles there or leave it out")
    return [
        Listed(name=told["name"], arguments=tuple(told["arguments"]), card=told["card"]) for told in registry.describe()
    ]

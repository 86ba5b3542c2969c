"""What a process serves by its role: everything (`single`), or one part of the graph."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI

from serving import app, engine_metrics, expert, graph, metrics, models, orchestrator, vlm, watched
from serving.answer import Service, Terms
from serving.health import Health
from serving.introductions import Introductions
from serving.lanes import Lane
from serving.server import Part
from serving.studies import StudyStore
from serving.tenants import Tenants
from vilam3.consultant import load
from vilam3.dialogue.messages import Engine
from vilam3.engines import EngineChoice
from vilam3.errors import UserError
from vilam3.objects import FolderStore, ObjectStore, open_store
from vilam3.services.engine import RemoteEngine
from vilam3.services.experts import RemoteExperts
from vilam3.services.visit import Waits
from vilam3.shelf import STUDIES_VARIABLE, Shelf


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a process keeps files, and for whom it works.

    Attributes:
        work: A private directory that is gone when the server is.
        studies_uri: The store it shares with others, or empty.
        tenants: Who may ask.
    """

    work: Path
    studies_uri: str
    tenants: Tenants

    def shared(self, *, role: str) -> ObjectStore:
        """The shared store.

        Raises:
            UserError: none is named.
        """
        if not self.studies_uri:
            raise UserError(
                f"--role {role}: needs the store of studies that all roles share; name it with --studies or "
                f"{STUDIES_VARIABLE}, such as file:///var/lib/vilam3/studies or s3://bucket/prefix"
            )
        return open_store(self.studies_uri)

    def any_store(self) -> ObjectStore:
        """The shared store, or one that lives as long as this process."""
        return open_store(self.studies_uri) if self.studies_uri else FolderStore(self.work / "store")


def single(model: str, *, experts: Path | None, place: Place, terms: Terms, engine: EngineChoice) -> Part:
    """Everything in one process."""
    consultant = load(model, experts=experts, engine=engine)
    service = Service.create(consultant, tenants=place.tenants, work=place.work, terms=terms)
    service.dialogues = Lane("dialogues", workers=engine.slots, waiting=engine.waiting, urgent=engine.waiting // 4)
    engine_metrics.watch(consultant.engine)
    metrics.declare(() if consultant.experts is None else tuple(consultant.experts.grammar().arguments))
    return _public(service, ends=consultant.engine.close, health=_health_of(consultant.engine))


def language_model(model: str, *, place: Place, engine: EngineChoice, experts: Mapping[str, str] | None = None) -> Part:
    """The language model alone.

    Args:
        model: Checkpoint directory or registered version.
        place: Where it works.
        engine: What runs it.
        experts: Address by name of what a graph's switch may ask beyond the published experts.

    Raises:
        UserError: an address is none.
    """
    consultant = load(model, engine=engine)
    engine_metrics.watch(consultant.engine)
    service = vlm.ModelService(
        engine=consultant.engine,
        digest=consultant.model_digest,
        dialect=consultant.dialect,
        tenants=place.tenants,
        replies=vlm.lane(slots=engine.slots, waiting=engine.waiting),
    )
    metrics.declare((metrics.VLM,))
    return model_part(service, store=place.any_store(), experts=experts or {})


def model_part(service: vlm.ModelService, *, store: ObjectStore, experts: Mapping[str, str]) -> Part:
    """The routes of the language model on an engine that is loaded."""
    known = Introductions(experts)
    step = graph.ModelStep(service=service, studies=StudyStore(Shelf(store)), roster=known.roster)

    def install(application: FastAPI) -> None:
        vlm.install(application, service)
        graph.install(application, step)

    def close() -> None:
        known.close()
        service.close()

    return Part(install=install, models=lambda: [models.SilentModel()], close=close, health=_health_of(service.engine))


def _health_of(engine: Engine) -> Health:
    """An engine that says that it lacks something has failed for good."""
    return Health(broken=lambda: str(getattr(engine, "lacking", "")))


def one_expert(name: str, *, experts: Path, place: Place) -> Part:
    """One expert alone.

    Raises:
        NotFoundError: it is not in the directory.
    """
    from vilam3.experts.registry import Registry  # noqa: PLC0415 - torch and MONAI take seconds to import

    shelf = Shelf(place.shared(role="expert"))
    service = expert.ExpertService(
        name=name,
        opened=lambda dialect: Registry.load(experts, only=[name], dialect=dialect),
        shelf=shelf,
        tenants=place.tenants,
    )
    service.registry()  # what is missing or damaged is said before the server starts
    service.begin_warm_up()
    return expert_part(service)


def expert_part(service: expert.ExpertService) -> Part:
    """The routes of an expert that is opened."""
    metrics.declare((service.name,))

    def install(application: FastAPI) -> None:
        application.state.expert = service
        application.include_router(watched.router)
        expert.install(application, service)
        graph.install(application, graph.ExpertStep(service=service))

    return Part(
        install=install,
        models=lambda: [models.ExpertModel(service)],
        close=service.close,
        health=Health(lambda: service.lacking),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """The services an orchestrator talks to."""

    vlm: str
    experts: Mapping[str, str] = field(default_factory=dict)
    waits: Waits = field(default_factory=Waits)


def public(others: Others, *, terms: Terms, place: Place) -> Part:
    """The public endpoint in front of other services.

    Raises:
        UserError: an address is none, or no store is named for the experts.
    """
    engine = RemoteEngine(others.vlm, patience_s=others.waits.warmup_s)
    experts = RemoteExperts(others.experts, waits=others.waits) if others.experts else None
    store = place.shared(role="orchestrator") if others.experts else place.any_store()
    known = orchestrator.Acquaintance(engine)
    service = orchestrator.service(known, experts, objects=store, tenants=place.tenants, terms=terms)
    metrics.declare(tuple(others.experts))
    known.begin()
    return _public(service, ends=known.close, health=Health(known.lacking))


def _public(service: Service, *, ends: Callable[[], None], health: Health) -> Part:

    def close() -> None:
        service.close()
        ends()

    return Part(
        install=lambda application: app.install(application, service),
        models=lambda: [models.ChatModel(service)],
        close=close,
        health=health,
    )

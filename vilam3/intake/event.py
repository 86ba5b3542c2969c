"""What asks for a run, what names it, and what is answered; the forms in which all of it is kept and sent."""

from datetime import datetime
from typing import Annotated, Literal, Protocol

from pydantic import Field

from vilam3.recipe import Recipe, parse_resolved
from vilam3.settings import Settings
from vilam3.train.record import digest_of

KEY_DIGITS = 16

Trigger = Literal["person", "rest", "cron", "new-data", "webhook"]
Decision = Literal["started", "already", "held", "refused", "dry-run"]
State = Literal["running", "succeeded", "failed"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=60)]


class Places(Settings):
    """Where a run takes what it needs."""

    corpus: str
    """URI of a prepared corpus."""
    base_checkpoint: str
    """URI of the checkpoint to start from, or ``models:/name@alias`` of the tracking store."""
    experts: str
    """URI of a directory of expert bundles."""


class Event(Settings):
    """Somebody or something asks for a run."""

    pipeline: Name
    """Name of the pipeline, as the server knows it."""
    stages: Annotated[tuple[str, ...], Field(min_length=1)]
    """Stages that it trains; for the estimate."""
    recipe: str
    """Resolved, one JSON text."""
    places: Places
    """Of its inputs."""
    trigger: Trigger
    """What asked."""

    def resolved(self) -> Recipe:
        """The recipe.

        Raises:
            RecipeError: it is none.
        """
        return parse_resolved(self.recipe)


class Digests(Settings):
    """What a run's result follows from, by content; places have no part in it."""

    data: str
    """Of the corpus."""
    recipe: str
    """Of the resolved recipe."""
    base: str
    """Of the checkpoint's weights."""

    def key(self, pipeline: str) -> str:
        """Names the run: the same content under other names is the same run."""
        return digest_of({"pipeline": pipeline, **self.model_dump()})[:KEY_DIGITS]


class Estimate(Settings):
    """What the plan expects a run to take; see `vilam3.train.plan`."""

    accelerator: str
    """Kind of device that is assumed."""
    utilisation: float
    """Share of its peak that is assumed."""
    steps: int | None
    """Optimizer steps; None, as all below, where the number of samples is not known."""
    samples: int | None
    """Of all epochs."""
    tokens: int | None
    """Positions, image positions included."""
    gpu_hours: float | None
    """Devices times time."""
    wall_hours: float | None
    """Time of the stages one after another."""
    energy_kwh: float | None
    """At most, of the devices alone."""
    cost: float | None
    """In the currency of the price; None without a price."""
    unknown: tuple[str, ...] = ()
    """Data sets whose number of samples is not known."""


class Run(Settings):
    """A run, wherever it runs."""

    id: str
    """As the server has it."""
    name: str
    """Ours: pipeline, key and attempt."""
    link: str = ""
    """For a person's browser."""
    state: State = "running"
    """When the server was last asked."""


class Answer(Settings):
    """What came of an event."""

    key: str
    """Names the run: the same content has the same key."""
    decision: Decision
    """started, already, held, refused, or dry-run."""
    reason: str
    """One sentence."""
    run: Run | None = None
    """The run of this key, where there is one."""
    held_until: datetime | None = None
    """Not before; None where it is not held, or until a run ends."""
    digests: Digests
    """What the key follows from."""
    estimate: Estimate
    """What the plan expects."""


class Starts(Protocol):
    """What starts runs: a Kubeflow Pipelines server, or this machine."""

    def find(self, name: str) -> Run | None:
        """The run of that name, or None; of several the first.

        Raises:
            EngineError: it cannot be asked.
        """
        ...

    def start(self, name: str, event: Event, digests: Digests) -> Run:
        """Start a run; its places are those that hold content, never ``models:/``.

        Raises:
            EngineError: it was not started, or it is not known whether it was.
            UserError: the pipeline does not take it.
        """
        ...


def run_name(pipeline: str, key: str, *, attempt: int) -> str:
    """Follows from what is run, so that whoever asks finds a run that another began."""
    return f"{pipeline}-{key}" if attempt == 1 else f"{pipeline}-{key}-{attempt}"

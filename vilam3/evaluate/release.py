"""Registers a challenger, lets the gate decide, and promotes it or says what failed.

Doing it again with the same weights changes nothing and says the same: the version stays one version, and a champion is
held against the champion it replaced.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from vilam3.evaluate.gate import GateDecision, decide
from vilam3.evaluate.results import Comparison, Provenance
from vilam3.settings import GateSettings
from vilam3.train.record import Checkpoint, weights_digest

if TYPE_CHECKING:
    from vilam3.tracking import Version  # mlflow takes seconds to import, and a report needs only what was decided

EVALUATED_ON = "evaluated_on"  # tag: digest of the questions and studies behind the version's numbers

Measure = Callable[["Version"], Mapping[str, float]]  # numbers of a version on the questions at hand


class Register(Protocol):
    """The part of a tracking store that releasing uses."""

    def register(self, checkpoint: Checkpoint) -> "Version":
        """Make a checkpoint a version and the challenger, once."""
        ...

    def promote(self, number: int, *, expected_champion: int | None) -> "Version":
        """Make a version the champion, if the champion still is the expected one."""
        ...

    def by_alias(self, alias: Literal["champion", "challenger", "rollback"]) -> "Version | None":
        """The version an alias points to."""
        ...


class Release(BaseModel):
    """What became of a challenger.

    Attributes:
        model: Name of the registered model.
        version: Its number.
        alias: ``champion`` where the gate let it pass, else ``challenger``.
        weights: Their digest.
        source: URI of the weights.
        compared_with: Number of the champion it was held against, or None.
        gate: The decision.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    version: int
    alias: str
    weights: str
    source: str
    compared_with: int | None
    gate: GateDecision


def release(
    candidate: Checkpoint, comparison: Comparison, *, policy: GateSettings, tracking: Register, measure: Measure
) -> Release:
    """Register `candidate`, hold it against floors and champion, and promote it if it passes.

    Args:
        candidate: The challenger's weights; see `candidate_of`.
        comparison: Its evaluation.
        policy: Floors and margin.
        tracking: Where versions are kept.
        measure: Evaluates a champion whose numbers are from other questions.

    Raises:
        TrackingError: the store refused, or somebody else promoted meanwhile.
    """
    version = tracking.register(replace(candidate, metrics=comparison.numbers()))
    champion = tracking.by_alias("champion")
    is_champion = champion is not None and champion.number == version.number
    rival = tracking.by_alias("rollback") if is_champion else champion
    numbers = None if rival is None else _numbers(rival, comparison.provenance, measure)
    decision = decide(comparison, policy=policy, champion=numbers)
    if decision.passed and not is_champion:
        version = tracking.promote(version.number, expected_champion=rival.number if rival else None)
    return Release(
        model=version.name,
        version=version.number,
        alias="champion" if "champion" in version.aliases else "challenger",
        weights=version.digest,
        source=version.source,
        compared_with=None if rival is None else rival.number,
        gate=decision,
    )


def candidate_of(checkpoint: Path, *, name: str, source: str, step: int, comparison: Comparison) -> Checkpoint:
    """The challenger as the tracking store should know it.

    Args:
        checkpoint: Its directory here.
        name: Recipe and stage, readable.
        source: URI under which it stays.
        step: Optimizer step of the last stage.
        comparison: Its evaluation.
    """
    return Checkpoint(
        name=name,
        step=step,
        source=source,
        digest=weights_digest(checkpoint),
        tags={EVALUATED_ON: comparison.provenance.corpus, "experts_digest": comparison.provenance.experts},
    )


def _numbers(rival: "Version", provenance: Provenance, measure: Measure) -> Mapping[str, float]:
    if rival.tags.get(EVALUATED_ON) != provenance.corpus:
        return measure(rival)
    return rival.numbers

"""From an evaluated challenger to a champion; what MLflow makes of it is tested with the tracking store."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.unit.evaluate.test_gate import comparison
from vilam3.evaluate.release import EVALUATED_ON, Release, release
from vilam3.settings import GateSettings
from vilam3.tracking import MEASURED, Version
from vilam3.train.record import Checkpoint

POLICY = GateSettings(min_accuracy=0.9, non_inferiority_margin=0.02)


class Shelf:
    """A registry in memory: one version for the same weights, and aliases that move as the real one moves them."""

    def __init__(self) -> None:
        """Empty."""
        self.made: list[Version] = []
        self.aliases: dict[str, int] = {}

    def register(self, checkpoint: Checkpoint) -> Version:
        """Once for the same weights."""
        found = next((one for one in self.made if one.digest == checkpoint.digest), None)
        if found is None:
            numbers = {name: str(value) for name, value in checkpoint.metrics.items()}
            found = Version(
                name="model",
                number=len(self.made) + 1,
                source=checkpoint.source,
                digest=checkpoint.digest,
                tags={**checkpoint.tags, **numbers, MEASURED: ",".join(numbers)},
            )
            self.made.append(found)
        if self.aliases.get("champion") != found.number:
            self.aliases["challenger"] = found.number
        return self._shown(found.number)

    def promote(self, number: int, *, expected_champion: int | None) -> Version:
        """Only over the champion the gate saw."""
        assert self.aliases.get("champion") == expected_champion
        if expected_champion is not None:
            self.aliases["rollback"] = expected_champion
        self.aliases["champion"] = self.aliases.pop("challenger")
        assert self.aliases["champion"] == number
        return self._shown(number)

    def by_alias(self, alias: str) -> Version | None:
        """The version of an alias."""
        return self._shown(self.aliases[alias]) if alias in self.aliases else None

    def _shown(self, number: int) -> Version:
        held = tuple(alias for alias, target in self.aliases.items() if target == number)
        return replace(self.made[number - 1], aliases=held)


@pytest.fixture
def tracking() -> Shelf:
    return Shelf()


def _candidate(digest: str, *, corpus: str = "c") -> Checkpoint:
    return Checkpoint(
        name=f"tiny-{digest}", step=1, source=f"file:///{digest}", digest=digest, tags={EVALUATED_ON: corpus}
    )


def _never(version: Version) -> Mapping[str, float]:
    raise AssertionError(f"version {version.number} was measured on these very questions")


def _release(tracking: Shelf, digest: str, **changed: object) -> Release:
    return release(_candidate(digest), comparison(**changed), policy=POLICY, tracking=tracking, measure=_never)


def test_the_first_that_passes_is_the_champion(tracking: Shelf) -> None:
    released = _release(tracking, "one")
    assert (released.version, released.alias, released.compared_with) == (1, "champion", None)
    assert released.gate.passed


def test_one_that_fails_stays_the_challenger_and_says_why(tracking: Shelf) -> None:
    released = _release(tracking, "one", accuracy_with_experts=0.5)
    assert released.alias == "challenger"
    assert released.gate.reasons == ("accuracy_with_experts is 0.500, below gate.min_accuracy=0.9",)
    assert tracking.by_alias("champion") is None


def test_releasing_again_changes_nothing_and_says_the_same(tracking: Shelf) -> None:
    """So a run that was killed after its release comes to the same summary."""
    _release(tracking, "one")
    second = _release(tracking, "two")
    assert (second.version, second.compared_with) == (2, 1)
    assert _release(tracking, "two") == second
    champion = tracking.by_alias("champion")
    assert champion is not None
    assert champion.number == 2


def test_a_challenger_is_held_against_the_champions_numbers(tracking: Shelf) -> None:
    _release(tracking, "one")
    worse = (
        comparison()
        .tasks[0]
        .model_copy(update={"with_experts": comparison().tasks[0].with_experts.model_copy(update={"value": 0.90})})
    )
    released = _release(tracking, "two", tasks=(worse, comparison().tasks[1]))
    assert released.alias == "challenger"
    assert "below the champion's 0.950" in released.gate.reasons[0]


def test_a_champion_measured_on_other_questions_is_measured_again(tracking: Shelf) -> None:
    release(_candidate("one", corpus="old"), comparison(), policy=POLICY, tracking=tracking, measure=_never)
    asked: list[int] = []

    def measure(version: Version) -> Mapping[str, float]:
        asked.append(version.number)
        return {"accuracy.liver": 0.99}

    released = release(_candidate("two"), comparison(), policy=POLICY, tracking=tracking, measure=measure)
    assert asked == [1]
    assert released.gate.numbers["champion.accuracy.liver"] == 0.99
    assert not released.gate.passed

"""Whether a challenger is good enough: held against floors and against the champion; decides, and changes nothing."""

from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict

from vilam3.evaluate.results import Comparison
from vilam3.settings import GateSettings

EPSILON = 1e-9  # 0.88 is not below 0.90 - 0.02
TASK = "accuracy."


class GateDecision(BaseModel):
    """The outcome.

    Attributes:
        passed: True where no number failed.
        reasons: One sentence for each number that failed.
        numbers: Every number that was looked at, the champion's under ``champion.<name>``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    passed: bool
    reasons: tuple[str, ...]
    numbers: dict[str, float]


def decide(
    comparison: Comparison, *, policy: GateSettings, champion: Comparison | Mapping[str, float] | None = None
) -> GateDecision:
    """Hold a challenger against the recipe's floors and, task by task, against the champion.

    Args:
        comparison: Of the challenger.
        policy: Floors and margin of the recipe.
        champion: The champion's comparison on the same questions, or its numbers as `Comparison.numbers` names them;
            None where there is no champion.
    """
    rival = champion.numbers() if isinstance(champion, Comparison) else dict(champion or {})
    reasons = (*_floors(comparison, policy), *_task_floors(comparison, policy), *_inferior(comparison, policy, rival))
    numbers = comparison.numbers() | {"gain_ci95_low": comparison.gain_ci95[0]}
    return GateDecision(
        passed=not reasons,
        reasons=reasons,
        numbers=numbers | {f"champion.{name}": value for name, value in rival.items()},
    )


def _floors(comparison: Comparison, policy: GateSettings) -> Iterator[str]:
    yield from _below("accuracy_with_experts", comparison.accuracy_with_experts, policy.min_accuracy, "min_accuracy")
    yield from _below("gain", comparison.gain, policy.min_gain, "min_gain")
    low, high = comparison.gain_ci95
    if policy.min_gain > 0 and low <= 0:
        yield (
            f"gain_ci95 is {low:.3f} to {high:.3f} and does not exclude zero: the gain through experts may be chance; "
            "measure on more patients or train longer"
        )
    selection = comparison.expert_selection_accuracy
    yield from _below("expert_selection_accuracy", selection, policy.min_selection_accuracy, "min_selection_accuracy")


def _task_floors(comparison: Comparison, policy: GateSettings) -> Iterator[str]:
    found = {row.task: row.with_experts.value for row in comparison.tasks}
    for task, floor in sorted(policy.task_floors.items()):
        if task in found:
            yield from _below(TASK + task, found[task], floor, f"task_floors.{task}")
        else:
            yield (
                f"{TASK}{task} was not measured, and gate.task_floors.{task} asks for at least {floor:.3f}; the corpus "
                f"has the tasks {', '.join(sorted(found))}"
            )


def _inferior(comparison: Comparison, policy: GateSettings, rival: Mapping[str, float]) -> Iterator[str]:
    found = comparison.numbers()
    for name in sorted(name for name in rival if name.startswith(TASK)):
        least = rival[name] - policy.non_inferiority_margin
        if name not in found:
            yield f"{name} was measured on the champion ({rival[name]:.3f}) but not on the challenger"
        elif found[name] < least - EPSILON:
            yield (
                f"{name} is {found[name]:.3f}, below the champion's {rival[name]:.3f} by more than "
                f"gate.non_inferiority_margin={policy.non_inferiority_margin:g}"
            )


def _below(name: str, value: float, floor: float, key: str) -> Iterator[str]:
    if value < floor - EPSILON:
        yield f"{name} is {value:.3f}, below gate.{key}={floor:g}"

"""The gate names each number that failed."""

import pytest

from vilam3.evaluate.gate import decide
from vilam3.evaluate.results import Comparison, Estimate, Provenance, Selection, TaskComparison
from vilam3.settings import GateSettings

POLICY = GateSettings(min_accuracy=0.9, min_gain=0.15, min_selection_accuracy=0.98, task_floors={"liver": 0.8})


def comparison(**changed: object) -> Comparison:
    """One that passes, but for what is changed."""
    figure = Estimate(value=0.95, low=0.9, high=0.99)
    tasks = tuple(
        TaskComparison(
            task=task,
            questions=10,
            patients=10,
            majority=0.5,
            without_experts=figure,
            with_experts=figure,
            f1_without_experts=0.9,
            f1_with_experts=0.9,
            gain=figure,
        )
        for task in ("brain", "liver")
    )
    passing = Comparison(
        accuracy_without_experts=0.7,
        accuracy_with_experts=0.95,
        gain=0.25,
        gain_ci95=(0.1, 0.3),
        expert_selection_accuracy=0.99,
        accuracy_without_experts_ci95=(0.6, 0.8),
        accuracy_with_experts_ci95=(0.9, 0.99),
        questions=20,
        patients=10,
        tasks=tasks,
        selection=Selection(accuracy=figure, labels=("CXR()",), counts=((20,),)),
        provenance=Provenance(
            weights="w",
            experts="e",
            corpus="c",
            split="test",
            dialect="training",
            seed=1,
            resamples=10,
            max_new_tokens=8,
            version="0",
        ),
    )
    return passing.model_copy(update=changed)


def test_a_challenger_above_all_floors_passes() -> None:
    decision = decide(comparison(), policy=POLICY)
    assert decision.passed
    assert decision.reasons == ()
    assert decision.numbers["accuracy.liver"] == 0.95


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"accuracy_with_experts": 0.89}, "accuracy_with_experts is 0.890, below gate.min_accuracy=0.9"),
        ({"gain": 0.14}, "gain is 0.140, below gate.min_gain=0.15"),
        ({"gain_ci95": (-0.01, 0.5)}, "gain_ci95 is -0.010 to 0.500 and does not exclude zero"),
        (
            {"expert_selection_accuracy": 0.97},
            "expert_selection_accuracy is 0.970, below gate.min_selection_accuracy=0.98",
        ),
    ],
)
def test_each_failing_number_is_named(changed: dict[str, object], said: str) -> None:
    decision = decide(comparison(**changed), policy=POLICY)
    assert not decision.passed
    assert [reason for reason in decision.reasons if reason.startswith(said)] == list(decision.reasons)


def test_all_failures_are_named_at_once() -> None:
    decision = decide(comparison(accuracy_with_experts=0.1, gain=0.0, gain_ci95=(-1.0, 1.0)), policy=POLICY)
    assert len(decision.reasons) == 3


def test_a_task_without_a_figure_fails_its_floor() -> None:
    policy = POLICY.model_copy(update={"task_floors": {"heart": 0.5}})
    assert "accuracy.heart was not measured" in decide(comparison(), policy=policy).reasons[0]


def test_a_challenger_may_fall_behind_by_the_margin_and_no_more() -> None:
    assert decide(comparison(), policy=POLICY, champion={"accuracy.liver": 0.97}).passed
    decision = decide(comparison(), policy=POLICY, champion={"accuracy.liver": 0.98, "accuracy.brain": 0.5})
    assert decision.reasons == (
        "accuracy.liver is 0.950, below the champion's 0.980 by more than gate.non_inferiority_margin=0.02",
    )
    assert decision.numbers["champion.accuracy.liver"] == 0.98


def test_a_champion_may_be_given_as_its_comparison() -> None:
    assert decide(comparison(), policy=POLICY, champion=comparison()).passed


def test_a_task_only_the_champion_was_asked_is_not_passed_over() -> None:
    reasons = decide(comparison(), policy=POLICY, champion={"accuracy.heart": 0.9}).reasons
    assert reasons == ("accuracy.heart was measured on the champion (0.900) but not on the challenger",)


def test_no_floor_is_no_reason() -> None:
    assert decide(comparison(gain=-0.5, gain_ci95=(-0.6, -0.4)), policy=GateSettings(min_gain=-1)).passed

"""The tracking store on a new sqlite file: runs, logged models, versions, and promotion under the gate."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vilam3.errors import GateError, NotFoundError, TrackingError
from vilam3.evaluate.gate import GateDecision
from vilam3.registration import promote_gated, read_decision
from vilam3.tracking import Tracking, connect
from vilam3.train.record import Checkpoint

PASSED = GateDecision(passed=True, reasons=(), numbers={"accuracy_with_experts": 0.95})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def tracking(runs: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    """One store for the module, since making it takes seconds; an experiment and a model for each test."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    name = request.node.name
    return connect(experiment=name, registered_model=name, runs=runs)


def checkpoint(digest: str, *, step: int = 10, **metrics: float) -> Checkpoint:
    return Checkpoint(
        name=f"tiny-stage4-{step}",
        step=step,
        source=f"file:///weights/{digest}",
        digest=digest,
        tags={"recipe_digest": "r1", "dataset_digest": "d1"},
        metrics=metrics,
    )


def test_a_run_is_taken_up_by_its_key(tracking: Tracking) -> None:
    first = tracking.begin_run("stage4", key="k1", params={"learning_rate": "0.001"})
    assert tracking.begin_run("stage4", key="k1") == first
    assert tracking.begin_run("stage4", key="k2") != first


def test_a_series_said_twice_is_there_once(tracking: Tracking) -> None:
    run = tracking.begin_run("stage4", key="k1")
    tracking.log_series(run, [3.0, 2.0])
    tracking.log_series(run, [3.0, 2.0, 1.0])
    history = tracking._client.get_metric_history(run, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_a_checkpoint_is_one_model_that_is_ready_when_its_run_is(tracking: Tracking) -> None:
    run = tracking.begin_run("stage4", key="k1")
    model = tracking.log_checkpoint(run, checkpoint("w1", loss=0.5))
    assert tracking.log_checkpoint(run, checkpoint("w1", loss=0.5)) == model
    assert tracking.best_checkpoint("loss") is None
    tracking.finish_run(run, succeeded=True)
    found = tracking.best_checkpoint("loss", recipe_digest="r1")
    assert found is not None
    assert (found.digest, found.step, found.source) == ("w1", 10, "file:///weights/w1")
    assert (found.tags["dataset_digest"], found.metrics) == ("d1", {"loss": 0.5})


def test_models_of_a_failed_run_are_not_chosen(tracking: Tracking) -> None:
    run = tracking.begin_run("stage4", key="k1")
    tracking.log_checkpoint(run, checkpoint("w1", loss=0.5))
    tracking.finish_run(run, succeeded=False)
    assert tracking.best_checkpoint("loss") is None


def test_the_best_checkpoint_has_the_greatest_metric_of_its_recipe(tracking: Tracking) -> None:
    run = tracking.begin_run("stage4", key="k1")
    for step, digest in enumerate(("w1", "w2", "w3"), start=1):
        tracking.log_checkpoint(run, checkpoint(digest, step=step))
    tracking.finish_run(run, succeeded=True)
    for digest, accuracy in (("w1", 0.7), ("w2", 0.9), ("w3", 0.8)):
        tracking.log_evaluation(digest, {"validation_accuracy": accuracy})
    best = tracking.best_checkpoint("validation_accuracy")
    assert best is not None
    assert (best.digest, best.metrics["validation_accuracy"]) == ("w2", 0.9)
    assert tracking.best_checkpoint("validation_accuracy", recipe_digest="other") is None


def test_numbers_for_an_unknown_model_are_refused(tracking: Tracking) -> None:
    with pytest.raises(NotFoundError, match="no logged model has weights w9"):
        tracking.log_evaluation("w9", {"accuracy": 1.0})


def test_the_same_weights_are_registered_once(tracking: Tracking) -> None:
    run = tracking.begin_run("stage4", key="k1")
    model = tracking.log_checkpoint(run, checkpoint("w1"))
    version = tracking.register(checkpoint("w1", accuracy_with_experts=0.95))
    assert (version.number, version.aliases, version.source) == (1, ("challenger",), "file:///weights/w1")
    assert version.tags["model_id"] == model
    assert version.numbers == {"accuracy_with_experts": 0.95}
    assert tracking.register(checkpoint("w1", accuracy_with_experts=0.95)) == version
    assert tracking.register(checkpoint("w2")).number == 2
    assert [one.number for one in tracking.versions()] == [2, 1]


def test_promotion_moves_champion_and_rollback(tracking: Tracking) -> None:
    one, two = tracking.register(checkpoint("w1")), tracking.register(checkpoint("w2"))
    assert tracking.promote(one.number, expected_champion=None).aliases == ("champion",)
    assert tracking.promote(two.number, expected_champion=1).aliases == ("champion",)
    rollback = tracking.by_alias("rollback")
    assert rollback is not None
    assert rollback.number == 1
    assert tracking.by_alias("challenger") is None
    assert tracking.promote(two.number, expected_champion=1).number == 2


def test_registering_the_champion_again_does_not_make_it_a_challenger(tracking: Tracking) -> None:
    tracking.register(checkpoint("w1"))
    tracking.promote(1, expected_champion=None)
    assert tracking.register(checkpoint("w1")).aliases == ("champion",)


def test_promotion_over_an_unexpected_champion_is_refused(tracking: Tracking) -> None:
    for digest in ("w1", "w2", "w3"):
        tracking.register(checkpoint(digest))
    tracking.promote(1, expected_champion=None)
    with pytest.raises(TrackingError, match="the champion is version 1, but the gate saw nobody; run the gate again"):
        tracking.promote(2, expected_champion=None)
    champion = tracking.by_alias("champion")
    assert champion is not None
    assert champion.number == 1


def test_of_simultaneous_promotions_one_wins(tracking: Tracking, runs: Path) -> None:
    name = tracking._model
    stores = [connect(experiment=name, registered_model=name, runs=runs) for _ in range(4)]
    for number in range(1, 5):
        tracking.register(checkpoint(f"w{number}"))
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(_promote, stores, range(1, 5)))
    assert sorted(won) == [False, False, False, True]
    champion = tracking.by_alias("champion")
    assert champion is not None
    assert champion.number == 1 + won.index(True)


def _promote(store: Tracking, number: int) -> bool:
    try:
        store.promote(number, expected_champion=None)
    except TrackingError:
        return False
    return True


def test_an_unknown_version_is_named(tracking: Tracking) -> None:
    with pytest.raises(NotFoundError, match="no version 9"):
        tracking.version(9)


def test_a_passed_gate_promotes_the_challenger_once(tracking: Tracking) -> None:
    tracking.register(checkpoint("w1", accuracy_with_experts=0.95))
    assert promote_gated(tracking, PASSED).aliases == ("champion",)
    assert promote_gated(tracking, PASSED).aliases == ("champion",)


def test_a_failed_gate_stops_promotion_and_says_which_number_failed(tracking: Tracking) -> None:
    tracking.register(checkpoint("w1", accuracy_with_experts=0.6))
    failed = GateDecision(passed=False, reasons=("gain is 0.02, below 0.15",), numbers={"accuracy_with_experts": 0.6})
    with pytest.raises(GateError, match=r"the gate failed: gain is 0\.02, below 0\.15"):
        promote_gated(tracking, failed)
    assert tracking.by_alias("champion") is None


def test_a_decision_about_another_model_is_refused(tracking: Tracking) -> None:
    tracking.register(checkpoint("w1", accuracy_with_experts=0.6))
    with pytest.raises(GateError, match=r"the gate saw accuracy_with_experts=0\.95, the version has 0\.6"):
        promote_gated(tracking, PASSED)
    tracking.register(checkpoint("w2"))
    with pytest.raises(GateError, match="registered without an evaluation"):
        promote_gated(tracking, PASSED, number=2)


def test_a_decision_that_ignored_the_champion_is_refused(tracking: Tracking) -> None:
    tracking.register(checkpoint("w1", accuracy_with_experts=0.95))
    promote_gated(tracking, PASSED)
    tracking.register(checkpoint("w2", accuracy_with_experts=0.95))
    with pytest.raises(GateError, match="did not compare it with the champion, version 1"):
        promote_gated(tracking, PASSED)
    compared = PASSED.model_copy(update={"numbers": {**PASSED.numbers, "champion.accuracy_with_experts": 0.95}})
    with pytest.raises(TrackingError, match="the champion is version 1, but the gate saw version 7"):
        promote_gated(tracking, compared, expected_champion=7)
    assert promote_gated(tracking, compared).number == 2


def test_without_a_challenger_there_is_nothing_to_promote(tracking: Tracking) -> None:
    with pytest.raises(NotFoundError, match="no version is the challenger"):
        promote_gated(tracking, PASSED)


def test_an_absent_or_foreign_decision_promotes_nothing(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="no gate decision"):
        read_decision(tmp_path / "gate.json")
    (tmp_path / "gate.json").write_text(json.dumps({"passed": True, "waived": "yes"}))
    with pytest.raises(GateError, match="not a gate decision"):
        read_decision(tmp_path / "gate.json")


def test_nothing_is_left_outside_the_runs_folder(tracking: Tracking, runs: Path) -> None:
    tracking.register(checkpoint("w1"))
    assert {path.name for path in runs.iterdir()} <= {"mlflow.db", "mlflow-artifacts", "tracking.lock"}
    assert not Path("mlflow.db").exists()


def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
    with pytest.raises(TrackingError, match="nonsense"):
        connect(experiment="e", registered_model="m", runs=tmp_path)

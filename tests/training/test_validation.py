"""The loss on held-out samples is the same whoever measures it, and ends a gang where it ends one process."""

from pathlib import Path

import pytest

from tests.training.processes import Mischief, Place, finished, run_gang
from vilam3.train import local
from vilam3.train.record import read_stage
from vilam3.train.strategy import StrategyName

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
LOSS = 2e-3
STAGE = "stage4_expert"


@pytest.fixture
def careful(place: Place) -> Place:
    """Knows its few samples by heart long before it has seen them as often as asked for."""
    return place.changed(
        steps=60, learning_rate=0.05, checkpoint_every_steps=3, validation_samples=3, patience=2, kept_models=1
    )


@pytest.mark.parametrize(("world_size", "strategy"), [(2, "ddp"), (3, "zero3"), (2, "fsdp2"), (4, "zero2")])
def test_a_gang_measures_what_one_process_does(
    place: Place, tmp_path: Path, world_size: int, strategy: StrategyName
) -> None:
    """Four members share three or four samples: some have none, and nobody waits for them."""
    measured = place.changed(steps=6, checkpoint_every_steps=2, validation_samples=3, kept_models=1)
    alone = local.run(measured.recipe, stage=STAGE, corpus=place.corpus, base=place.base, out=tmp_path / "alone")
    together = finished(run_gang(measured, world_size, strategy))
    assert [step for step, _ in together["validated"]] == [2, 4, 6] == [step for step, _ in alone.validated]
    assert [loss for _, loss in together["validated"]] == pytest.approx([loss for _, loss in alone.validated], abs=LOSS)


def test_over_fitting_ends_a_gang_and_a_killed_one_at_the_same_step_with_the_same_weights(careful: Place) -> None:
    undisturbed = finished(run_gang(careful, 2, "ddp", out="calm"))
    assert undisturbed["steps"] < 60
    assert undisturbed["best_step"] == undisturbed["steps"] - 2 * 3
    for died_at in (undisturbed["best_step"] + 1, undisturbed["steps"] - 1):
        run_gang(careful, 2, "ddp", mischief=Mischief(rank=1, dies_after_step=died_at))
    found = finished(run_gang(careful, 2, "ddp"))
    assert found["validated"] == undisturbed["validated"]
    assert (found["steps"], found["best_step"]) == (undisturbed["steps"], undisturbed["best_step"])
    assert read_stage(careful.folder / "out").weights_digest == undisturbed["weights_digest"]

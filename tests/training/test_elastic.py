"""Another number of members, another strategy: the run goes on as if nothing had changed."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.training.processes import Mischief, Place, finished, run_gang
from vilam3.model.config import IMAGE_TOKEN_ID
from vilam3.recipe import Recipe
from vilam3.train.sources import make_feed, starting_network
from vilam3.train.strategy import StrategyName

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
LOSS = 1e-3
WORLDS: tuple[tuple[int, StrategyName], ...] = ((4, "zero3"), (2, "zero2"), (3, "zero3"), (1, "ddp"), (4, "zero1"))


def test_four_two_three_one_four_members_follow_the_curve_of_one(place: Place) -> None:
    """No conversion between them: a checkpoint holds whole weights by name."""
    longer = place.changed(steps=20, checkpoint_every_steps=4)
    undisturbed = finished(run_gang(longer, 1, "ddp", out="undisturbed"))
    for number, (world_size, strategy) in enumerate(WORLDS, start=1):
        mischief = Mischief(terminated_after_step=number * 4 - 1) if number < len(WORLDS) else None
        endings = run_gang(longer, world_size, strategy, mischief=mischief)
        if mischief is not None:
            assert {ending.code for ending in endings} == {75}
            (run,) = (place.folder / "checkpoints").iterdir()
            newest = max(run.glob("*/manifest.json"))
            assert json.loads(newest.read_text())["position"]["step"] == number * 4
            assert len(list(newest.parent.glob("*.safetensors"))) == world_size
    found = finished(endings)
    assert found["losses"] == pytest.approx(undisturbed["losses"], abs=LOSS)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_sample_is_seen_once_an_epoch_by_exactly_one_member(
    recipe: Recipe, corpus: Path, world_size: int
) -> None:
    loaded = starting_network(recipe, stage="stage1_align", corpus=corpus, base=None)
    feed = make_feed(recipe, stage="stage3_instruct", corpus=corpus, loaded=loaded)
    seen: Counter[str] = Counter()
    pictures = 0
    for step in range(7):  # of 2: 14 samples are an epoch
        for rank in range(world_size):
            for batch in feed.batches(step, global_batch=2, micro_batch=2, rank=rank, world_size=world_size):
                seen.update(batch.samples)
                pictures += int((batch.input_ids_BT == IMAGE_TOKEN_ID).sum())
    assert seen == Counter([f"vqa-{index}" for index in range(10)] + [f"text-{index}" for index in range(4)])
    assert pictures == 10

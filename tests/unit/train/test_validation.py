"""The loss on held-out samples: whole patients, the same whoever trains, and the rule that ends a stage by it."""

from pathlib import Path

import pytest
import torch

from tests.unit.train.test_local import Notes, weights, with_stage
from vilam3.corpus.sharding import Cut, HeldOut, shard_corpus
from vilam3.errors import RecipeError
from vilam3.recipe import Recipe
from vilam3.train import local
from vilam3.train.record import read_stage
from vilam3.train.sources import make_feed, starting_network
from vilam3.train.validation import Validated, best_of, is_over

STAGE, LAST = "stage1_align", "stage4_expert"


def measured(*losses: float) -> list[Validated]:
    return [Validated(step=10 * place, loss=loss) for place, loss in enumerate(losses, start=1)]


def test_the_best_is_the_smallest_loss_and_what_is_no_number_never_is() -> None:
    assert best_of(measured(3.0, float("nan"), 2.0, 2.0)) == Validated(step=30, loss=2.0)
    assert best_of([]) is None


@pytest.mark.parametrize(
    ("losses", "ends"),
    [
        ((3.0, 2.0), False),
        ((2.0, 3.0), False),
        ((2.0, 3.0, 2.5), True),
        ((2.0, 3.0, 1.9), False),
        ((2.0, 2.0, 2.0), True),
    ],
)
def test_two_measurements_that_are_no_better_end_a_stage_of_patience_two(losses: tuple[float, ...], ends: bool) -> None:
    assert is_over(measured(*losses), patience=2) is ends
    assert not is_over(measured(*losses), patience=0)


def test_patience_and_held_out_samples_are_given_together(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="has no effect without validation_samples"):
        with_stage(recipe, STAGE, patience=2)
    with pytest.raises(ValueError, match="needs kept_models"):
        with_stage(recipe, STAGE, validation_samples=2)


def test_nothing_left_to_learn_is_refused(recipe: Recipe, corpus: Path) -> None:
    greedy = with_stage(recipe, STAGE, validation_samples=100, kept_models=1)
    loaded = starting_network(greedy, stage=STAGE, corpus=corpus, base=None)
    with pytest.raises(RecipeError, match=r"validation_samples=100: nothing of captions would be left"):
        make_feed(greedy, stage=STAGE, corpus=corpus, loaded=loaded)


@pytest.fixture
def fitting_too_well(recipe: Recipe) -> Recipe:
    """A stage that soon knows its samples by heart: the loss on others gets worse."""
    return with_stage(
        recipe,
        STAGE,
        trainable=["vision_tower", "mm_projector", "llm"],
        learning_rate=0.05,
        steps=60,
        checkpoint_every_steps=2,
        validation_samples=3,
        patience=3,
        kept_models=1,
    )


def test_over_fitting_ends_a_stage_and_the_best_weights_are_what_it_hands_over(
    fitting_too_well: Recipe, corpus: Path, tmp_path: Path
) -> None:
    out, notes = tmp_path / "out", Notes()
    found = local.run(fitting_too_well, stage=STAGE, corpus=corpus, base=None, out=out, tracking=notes)
    validated = dict(found.validated)
    assert found.steps < 60
    assert list(validated) == list(range(2, found.steps + 1, 2))
    assert found.best_step == min(validated, key=lambda step: (validated[step], step)) == found.steps - 2 * 3
    assert found.weights_step == found.best_step
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert kept == [f"step-{found.best_step:08d}", f"step-{found.steps:08d}"]  # the newest, and the best
    best = weights(out / "checkpoints" / kept[0])
    assert all(torch.equal(value, best[name]) for name, value in weights(out).items())
    assert notes.models[found.weights_digest].metrics["validation_loss"] == validated[found.best_step]
    assert notes.numbers["validation_loss"] == validated[found.steps]
    assert read_stage(out).validated == found.validated


def test_an_interrupted_stage_ends_where_one_that_was_left_alone_does(
    fitting_too_well: Recipe, corpus: Path, tmp_path: Path
) -> None:
    calm, out = tmp_path / "calm", tmp_path / "out"
    undisturbed = local.run(fitting_too_well, stage=STAGE, corpus=corpus, base=None, out=calm)

    class StopError(Exception):
        """In the place of a kill."""

    for at in range(1, undisturbed.steps, 3):

        def stop(step: int, *_: float, at: int = at) -> None:
            if step == at:
                raise StopError

        with pytest.raises(StopError):
            local.run(fitting_too_well, stage=STAGE, corpus=corpus, base=None, out=out, on_progress=stop)
    found = local.run(fitting_too_well, stage=STAGE, corpus=corpus, base=None, out=out)
    assert found.validated == undisturbed.validated
    assert (found.steps, found.best_step) == (undisturbed.steps, undisturbed.best_step)
    assert found.weights_digest == undisturbed.weights_digest


def test_held_out_samples_change_nothing_of_what_the_others_teach(recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    """Measuring draws nothing at random and leaves the weights alone: a stage of the same samples learns the same."""
    with_loss = with_stage(recipe, STAGE, validation_samples=3, kept_models=1)
    found = local.run(with_loss, stage=STAGE, corpus=corpus, base=None, out=tmp_path / "a")
    seldom = with_stage(recipe, STAGE, validation_samples=3, kept_models=1, checkpoint_every_steps=8)
    assert len(found.validated) > 1
    assert local.run(seldom, stage=STAGE, corpus=corpus, base=None, out=tmp_path / "b").losses == found.losses


@pytest.fixture
def base(recipe: Recipe, corpus: Path, tmp_path: Path) -> Path:
    local.run(recipe, stage=STAGE, corpus=corpus, base=None, out=tmp_path / "base")
    return tmp_path / "base"


EVERY = {"captions": 1, "expert": 1, "text": 1, "vqa": 1}


def test_what_is_held_out_of_shards_is_measured_as_in_the_folder(
    recipe: Recipe, corpus: Path, base: Path, tmp_path: Path
) -> None:
    """The same patients, the same losses and the same weights, though windows of shards come and go meanwhile."""
    changes = {"mixture": EVERY, "validation_samples": 5, "kept_models": 1, "checkpoint_every_steps": 2}
    measuring = with_stage(recipe, LAST, **changes)
    chosen = HeldOut(num_samples=5, seed=recipe.seed)
    shard_corpus(corpus, out=str(tmp_path / "one"), cut=Cut(max_samples=2, mixed_shards=32), held_out=chosen)
    shard_corpus(corpus, out=str(tmp_path / "many"), cut=Cut(max_samples=2, mixed_shards=2), held_out=chosen)
    folder, one, many = (
        local.run(measuring, stage=LAST, corpus=place, base=base, out=tmp_path / f"{number}")
        for number, place in enumerate((corpus, tmp_path / "one", tmp_path / "many"))
    )
    assert len(folder.validated) > 2
    assert one.validated == folder.validated
    assert one.losses == folder.losses
    assert one.weights_digest == folder.weights_digest
    assert [step for step, _ in many.validated] == [step for step, _ in folder.validated]
    assert many.losses != folder.losses  # in another order


def test_a_stage_on_shards_asks_for_no_more_than_they_hold_out(
    recipe: Recipe, corpus: Path, base: Path, tmp_path: Path
) -> None:
    greedy = with_stage(recipe, STAGE, validation_samples=9, kept_models=1)
    shard_corpus(corpus, out=str(tmp_path / "some"), cut=Cut(), held_out=HeldOut(num_samples=3))
    loaded = starting_network(greedy, stage=STAGE, corpus=corpus, base=base)
    with pytest.raises(RecipeError, match=r"validation_samples=9: .* has [1-3] held out .* with a larger --held-out"):
        make_feed(greedy, stage=STAGE, corpus=tmp_path / "some", loaded=loaded)
    feed = make_feed(recipe, stage=STAGE, corpus=tmp_path / "some", loaded=loaded)  # which measures nothing
    assert feed.held_out(micro_batch=1) == []
    feed.close()

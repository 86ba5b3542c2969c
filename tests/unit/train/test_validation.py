"""The loss on held-out samples: whole patients, the same whoever trains, and the rule that ends a stage by it."""

from pathlib import Path

import pytest
import torch

from tests.unit.train.test_local import Notes, weights, with_stage
from vilam3.data.llava import read_samples
from vilam3.errors import RecipeError
from vilam3.recipe import Recipe
from vilam3.train import local
from vilam3.train.record import read_stage
from vilam3.train.sources import make_feed, starting_network
from vilam3.train.validation import Validated, best_of, is_over, split

STAGE = "stage1_align"


def measured(*losses: float) -> list[Validated]:
    return [Validated(step=10 * place, loss=loss) for place, loss in enumerate(losses, start=1)]


def test_a_patient_is_learned_or_held_out_never_both(corpus: Path) -> None:
    datasets = {name: list(read_samples(corpus / "samples" / f"{name}.json")) for name in ("vqa", "expert")}
    learned, held_out = split(datasets, held_out=3, seed=11)
    patients = [{one.patient for samples in part.values() for one in samples} for part in (learned, held_out)]
    assert not patients[0] & patients[1]
    assert 3 <= sum(map(len, held_out.values())) <= 4  # a patient has one sample of each data set at most
    for name, samples in datasets.items():
        assert sorted(one.sample_id for one in samples) == sorted(
            one.sample_id for one in learned[name] + held_out[name]
        )
    assert split(datasets, held_out=3, seed=11) == (learned, held_out)
    assert split(datasets, held_out=3, seed=12)[1] != held_out
    assert split(datasets, held_out=0, seed=11) == (datasets, {"vqa": [], "expert": []})


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

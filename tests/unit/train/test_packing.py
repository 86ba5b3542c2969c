"""Packing: everything once, nothing over the edge, next to no padding, the same every time."""

import copy
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vilam3.recipe import Recipe
from vilam3.settings import Stage
from vilam3.train.packing import fill, pack
from vilam3.train.sources import make_feed, starting_network
from vilam3.train.step import make_optimizer, make_scheduler, train_step

lengths_of_samples = st.lists(st.integers(1, 5000), max_size=200)


@settings(deadline=None)
@given(lengths=lengths_of_samples)
def test_every_sample_is_in_one_row_and_no_row_is_over_full(lengths: list[int]) -> None:
    rows = pack(lengths, capacity=4096)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(min(lengths[index], 4096) for index in row) <= 4096 for row in rows)


@settings(deadline=None)
@given(lengths=lengths_of_samples)
def test_no_two_rows_could_have_been_one(lengths: list[int]) -> None:
    rows = pack(lengths, capacity=4096)
    loads = sorted(sum(min(lengths[index], 4096) for index in row) for row in rows)
    assert len(loads) < 2 or loads[0] + loads[1] > 4096


def test_a_step_of_stage_4_is_at_least_95_percent_real() -> None:
    """1,024 samples of 200 to 900 positions, one in twenty far longer; the last row alone may stay empty."""
    draw = random.Random(11)  # noqa: S311 - lengths, not secrets
    for _ in range(20):
        lengths = [draw.randint(1500, 4096) if draw.random() < 0.05 else draw.randint(200, 900) for _ in range(1024)]
        assert fill(lengths, pack(lengths, capacity=4096), capacity=4096) >= 0.95


def test_the_rows_follow_from_the_lengths_alone() -> None:
    assert pack([3, 9, 1, 6, 6, 4], capacity=10) == [[1, 2], [3, 5], [4, 0]]
    assert pack([], capacity=10) == []
    assert fill([], [], capacity=10) == 1.0


@pytest.mark.parametrize("rows", [1, 3])
def test_a_packed_step_moves_the_weights_as_the_unpacked_one_does(recipe: Recipe, corpus: Path, rows: int) -> None:
    """Captions, questions, two-image conversations and text alone; the sums are taken in another order."""
    loaded = starting_network(recipe, stage="stage1_align", corpus=corpus, base=None)
    plain = recipe.stage("stage4_expert")
    packed = recipe.model_copy(
        update={"stages": recipe.stages.model_copy(update={"stage4_expert": _packed(plain, rows)})}
    )
    found = []
    for one in (recipe, packed):
        feed = make_feed(one, stage="stage4_expert", corpus=corpus, loaded=loaded)
        model = copy.deepcopy(loaded.model).train()
        batches = feed.batches(0, global_batch=12, micro_batch=3)
        assert (batches[0].starts_BT is not None) == (one is packed)
        optimizer = make_optimizer(model, plain)
        result = train_step(
            model,
            batches,
            optimizer=optimizer,
            scheduler=make_scheduler(optimizer, plain, steps=8),
            gradient_clip=0.0,
        )
        samples = sorted(name for batch in batches for name in batch.samples)
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        found.append((result, samples, gradients))
    (alone, names, expected), (together, names_packed, gradients) = found
    assert names_packed == names
    assert together.num_targets == alone.num_targets
    assert together.loss == pytest.approx(alone.loss, abs=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5)


def _packed(stage: Stage, rows: int) -> Stage:
    return stage.model_copy(update={"packed_rows": rows})

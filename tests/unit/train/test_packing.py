"""Packing: everything once, nothing over the edge, next to no padding, the same every time."""

import copy
import random
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vilam3.model.config import IGNORED_LABEL
from vilam3.model.segments import CONTINUES, OPENING
from vilam3.recipe import Recipe
from vilam3.settings import Stage
from vilam3.train.example import Example
from vilam3.train.packing import fill, pack
from vilam3.train.rows import rows_of
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


@settings(deadline=None)
@given(lengths=lengths_of_samples, begun=st.lists(st.integers(0, 4096), max_size=9))
def test_rows_that_were_begun_are_filled_no_further_than_they_have_room(lengths: list[int], begun: list[int]) -> None:
    rows = pack(lengths, capacity=4096, begun=begun)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    for taken, row in zip_longest([*begun], rows, fillvalue=0):
        assert isinstance(row, list)
        assert taken + sum(min(lengths[index], 4096) for index in row) <= 4096


def test_a_shared_opening_is_in_a_row_once_and_every_sample_is_whole() -> None:
    """Two openings that are worth it, one that is not, one sample too long for a row."""
    draw = np.random.default_rng(3)
    openings = [draw.integers(1, 99, size) for size in (100, 70, 20)]
    samples = [
        sample(np.concatenate([openings[number % 3], draw.integers(1, 99, 5 + number)]), str(number))
        for number in range(40)
    ] + [sample(np.concatenate([openings[0], draw.integers(1, 99, 300)]), "long")]
    rows = rows_of(samples, capacity=256)
    found: dict[str, NDArray[np.int64]] = {}
    for row in rows:
        assert sum(piece.example.length for piece in row) <= 256 or len(row) == 1
        assert sum(piece.begins == OPENING for piece in row) <= 1
        opening = np.zeros(0, dtype=np.int64)
        for piece in row:
            ids = piece.example.input_ids_T
            if piece.begins == OPENING:
                opening = ids
            else:
                whole = np.concatenate([opening, ids]) if piece.begins == CONTINUES else ids
                found[piece.example.sample_id] = whole
    assert found.keys() == {one.sample_id for one in samples}
    assert all(np.array_equal(found[one.sample_id], one.input_ids_T) for one in samples)
    positions = sum(piece.example.length for row in rows for piece in row)
    assert positions < 0.7 * sum(one.length for one in samples)


def sample(ids: NDArray[np.int64], name: str) -> Example:
    """Of which the last token alone is learned."""
    labels = np.full_like(ids, IGNORED_LABEL)
    labels[-1] = ids[-1]
    return Example(input_ids_T=ids, labels_T=labels, images=(), length=len(ids), sample_id=name)


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
        begun = [batch.starts_BT for batch in batches if batch.starts_BT is not None]
        assert any(bool((starts_BT == OPENING).any()) for starts_BT in begun) == (one is packed)
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

"""The shared prefix: found where it is, and run once without changing loss or gradients."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vilam3.model.config import IGNORED_LABEL, IMAGE_TOKEN_ID
from vilam3.model.vila import Vila
from vilam3.recipe import Recipe
from vilam3.train.batches import Feed
from vilam3.train.prefix import WORTHWHILE, by_opening, loss_after_prefix, shared_length
from vilam3.train.sources import make_feed, starting_network
from vilam3.train.step import Batch, normalise_pixels

LONG = WORTHWHILE + 20


@pytest.fixture(scope="module")
def model(recipe: Recipe, corpus: Path) -> Vila:
    return starting_network(recipe, stage="stage1_align", corpus=corpus, base=None).model.train()


@pytest.fixture(scope="module")
def batch(recipe: Recipe, corpus: Path) -> Batch:
    """Expert conversations only: system text and cards in common."""
    loaded = starting_network(recipe, stage="stage1_align", corpus=corpus, base=None)
    feed: Feed = make_feed(recipe, stage="stage4_expert", corpus=corpus, loaded=loaded)
    batches = feed.batches(0, global_batch=22, micro_batch=22)
    return max(batches, key=lambda one: one.num_shared)


def rows(**changes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two equal rows, with one deviation of the first row at each place named."""
    ids = torch.arange(1, LONG + 1).repeat(2, 1)
    labels = torch.full_like(ids, IGNORED_LABEL)
    labels[:, -1] = 5
    mask = torch.ones_like(ids, dtype=torch.bool)
    if "token" in changes:
        ids[0, changes["token"]] = 999
    if "image" in changes:
        ids[:, changes["image"]] = IMAGE_TOKEN_ID
    if "label" in changes:
        labels[0, changes["label"]] = 7
    if "padding" in changes:
        mask[0, changes["padding"] :] = False
    return ids, labels, mask


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, LONG - 2),
        ({"token": 70}, 70),
        ({"image": 70}, 70),
        ({"label": 70}, 69),
        ({"padding": 70}, 70),
        ({"token": 10}, 0),
        ({"token": 0}, 0),
    ],
)
def test_the_prefix_ends_before_anything_of_its_own(changes: dict[str, int], expected: int) -> None:
    """The output of the token before a target is needed, so it stays out of the prefix."""
    assert shared_length(*rows(**changes)) == expected


def test_one_row_shares_with_nobody() -> None:
    assert shared_length(*(one[:1] for one in rows())) == 0


def test_running_the_prefix_once_changes_neither_loss_nor_gradients(model: Vila, batch: Batch) -> None:
    assert batch.num_shared >= WORTHWHILE
    assert batch.pixels_NCHW is not None
    pixels = normalise_pixels(batch.pixels_NCHW, model.config.vision)
    model.zero_grad()
    output = model(batch.input_ids_BT, pixels, attention_mask_BT=batch.mask_BT, labels_BT=batch.labels_BT)
    output.loss.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    loss = loss_after_prefix(
        model,
        batch.input_ids_BT,
        pixels,
        mask_BT=batch.mask_BT,
        labels_BT=batch.labels_BT,
        length=batch.num_shared,
    )
    loss.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped
    assert float(loss.detach()) == pytest.approx(float(output.loss.detach()), abs=1e-5)
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_openings_are_grouped_in_order_and_loners_share_a_group() -> None:
    assert by_opening([b"a", b"b", b"a", b"c", b"b", b"d"]) == [[0, 2], [1, 4], [3, 5]]
    assert by_opening([]) == []

"""The training step: accumulation, the learning-rate curve, what moves and what does not."""

import copy
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vilam3.errors import DivergedError
from vilam3.model.images import pixels_NCHW
from vilam3.model.vila import Vila
from vilam3.recipe import Recipe
from vilam3.settings import Stage
from vilam3.train.batches import Feed
from vilam3.train.sources import make_feed, starting_network
from vilam3.train.step import (
    StepResult,
    checkpoint_activations,
    freeze,
    in_lockstep,
    make_optimizer,
    make_scheduler,
    no_samples,
    normalise_pixels,
    rate_factor,
    train_step,
)


@pytest.fixture(scope="module")
def model(recipe: Recipe, corpus: Path) -> Vila:
    return starting_network(recipe, stage="stage1_align", corpus=corpus, base=None).model.train()


@pytest.fixture(scope="module")
def feed(recipe: Recipe, corpus: Path) -> Feed:
    loaded = starting_network(recipe, stage="stage1_align", corpus=corpus, base=None)
    return make_feed(recipe, stage="stage4_expert", corpus=corpus, loaded=loaded)


@pytest.fixture(scope="module")
def stage(recipe: Recipe) -> Stage:
    return recipe.stage("stage4_expert")


def one_step(
    model: Vila, feed: Feed, stage: Stage, *, micro_batch: int, workers: Executor | None = None
) -> tuple[StepResult, dict[str, torch.Tensor]]:
    """Gradients of one step on a copy, unclipped."""
    model = copy.deepcopy(model)
    freeze(model, trainable=stage.trainable)
    optimizer = make_optimizer(model, stage)
    batches = feed.batches(0, global_batch=6, micro_batch=micro_batch)
    scheduler = make_scheduler(optimizer, stage, steps=8)
    result = train_step(model, batches, optimizer=optimizer, scheduler=scheduler, gradient_clip=0.0, workers=workers)
    return result, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_accumulated_gradients_equal_those_of_one_big_batch(
    model: Vila, feed: Feed, stage: Stage, micro_batch: int
) -> None:
    """Samples differ in target tokens, so a mean of means would not do."""
    whole, expected = one_step(model, feed, stage, micro_batch=6)
    parts, found = one_step(model, feed, stage, micro_batch=micro_batch)
    assert parts.num_targets == whole.num_targets
    assert parts.loss == pytest.approx(whole.loss, abs=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_threads_that_share_a_step_change_no_bit(model: Vila, feed: Feed, stage: Stage, num_threads: int) -> None:
    """Parts end in any order and are added in theirs."""
    alone, expected = one_step(model, feed, stage, micro_batch=1)
    with ThreadPoolExecutor(num_threads) as workers:
        together, found = one_step(model, feed, stage, micro_batch=1, workers=workers)
    assert together == alone
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_a_black_picture_and_a_batch_of_nothing_change_neither_loss_nor_gradients(
    model: Vila, feed: Feed, stage: Stage
) -> None:
    """So a gang whose members must run the same parts learns what it would learn without."""
    model = copy.deepcopy(model)
    freeze(model, trainable=stage.trainable)
    text = replace(feed.batches(0, global_batch=6, micro_batch=6)[0], pixels_NCHW=None, num_shared=0)
    text = replace(text, input_ids_BT=text.input_ids_BT.clamp(min=1))  # a word in place of each picture
    found = []
    for batches in ([text], [in_lockstep(text, image_size=42), in_lockstep(no_samples(), image_size=42)]):
        copied = copy.deepcopy(model)
        optimizer = make_optimizer(copied, stage)
        scheduler = make_scheduler(optimizer, stage, steps=8)
        result = train_step(copied, batches, optimizer=optimizer, scheduler=scheduler, gradient_clip=0.0)
        found.append((result, {name: weight.grad for name, weight in copied.named_parameters()}))
    (plain, expected), (padded, gradients) = found
    assert padded.num_targets == plain.num_targets
    assert padded.loss == pytest.approx(plain.loss, abs=1e-6)
    for name, gradient in gradients.items():
        if expected[name] is None:
            assert gradient is None or not gradient.any(), name
        else:
            torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4, msg=name)
    ran = {name.partition(".")[0] for name, gradient in gradients.items() if gradient is not None}
    assert ran == {"vision_tower", "mm_projector", "llm"}


def test_a_loss_that_is_no_number_moves_nothing_and_names_the_samples(model: Vila, feed: Feed, stage: Stage) -> None:
    model = copy.deepcopy(model)
    freeze(model, trainable=stage.trainable)
    with torch.no_grad():
        next(model.mm_projector.parameters()).fill_(float("nan"))
    before = copy.deepcopy(model.state_dict())
    optimizer = make_optimizer(model, stage)
    scheduler = make_scheduler(optimizer, stage, steps=8)
    batches = feed.batches(0, global_batch=4, micro_batch=4)
    with pytest.raises(DivergedError, match=r"step 1: the loss is nan on samples (expert|vqa)-"):
        train_step(model, batches, optimizer=optimizer, scheduler=scheduler, gradient_clip=1.0)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], equal_nan=True)


def test_frozen_parts_have_no_gradient(model: Vila, feed: Feed, stage: Stage) -> None:
    only = stage.model_copy(update={"trainable": ("mm_projector",)})
    _, gradients = one_step(model, feed, only, micro_batch=6)
    assert {name.split(".")[0] for name in gradients} == {"mm_projector"}


def test_gradient_checkpointing_changes_nothing_but_memory(model: Vila, feed: Feed, stage: Stage) -> None:
    _, expected = one_step(model, feed, stage, micro_batch=6)
    saving = copy.deepcopy(model)
    checkpoint_activations(saving)
    assert saving.llm.is_activation_checkpointing
    _, found = one_step(saving, feed, stage, micro_batch=6)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_clipping_reports_the_norm_before_it(model: Vila, feed: Feed, stage: Stage) -> None:
    model = copy.deepcopy(model)
    freeze(model, trainable=stage.trainable)
    optimizer = make_optimizer(model, stage)
    scheduler = make_scheduler(optimizer, stage, steps=8)
    batches = feed.batches(0, global_batch=4, micro_batch=4)
    result = train_step(model, batches, optimizer=optimizer, scheduler=scheduler, gradient_clip=1e-3)
    norm = torch.stack([weight.grad.norm() for weight in model.parameters() if weight.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)
    assert result.gradient_norm > 1e-2


def test_only_matrices_decay(model: Vila, stage: Stage) -> None:
    decaying = make_optimizer(model, stage.model_copy(update={"weight_decay": 0.1})).param_groups
    assert [group["weight_decay"] for group in decaying] == [0.1, 0.0]
    assert all(weight.ndim <= 1 for weight in decaying[1]["params"])


def test_the_published_curve_peaks_at_step_108_of_3594() -> None:
    factors = [rate_factor(step, steps=3594, warmup_ratio=0.03) for step in range(3595)]
    assert max(range(3595), key=factors.__getitem__) == 108
    assert factors[0] == 0.0
    assert factors[108] == 1.0
    assert factors[2880] * 2e-5 == pytest.approx(2e-6, rel=0.1)
    assert factors[3594] == pytest.approx(0.0, abs=1e-12)


@given(steps=st.integers(1, 400), ratio=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_the_rate_rises_then_falls_within_bounds(steps: int, ratio: float) -> None:
    factors = [rate_factor(step, steps=steps, warmup_ratio=ratio) for step in range(steps)]
    assert all(0.0 <= factor <= 1.0 for factor in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_pixels_are_those_of_the_serving_path_bit_for_bit(model: Vila) -> None:
    grey = torch.arange(256, dtype=torch.uint8).repeat(42 * 42 * 3 // 256 + 1)[: 42 * 42 * 3].view(42, 42, 3)
    served = pixels_NCHW([Image.fromarray(grey.numpy())], model.config)
    assert served is not None
    assert torch.equal(normalise_pixels(grey.permute(2, 0, 1)[None], model.config.vision), served)

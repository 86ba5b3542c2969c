"""Conversations that share a row: each scored as if it were alone, in value and in gradient."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vilam3.model.config import IGNORED_LABEL, IMAGE_TOKEN_ID, LlmConfig, VilaConfig, VisionConfig
from vilam3.model.segments import CONTINUES, OPENING, Segment, positions_of, segments_of
from vilam3.model.vila import Vila

CONFIG = VilaConfig(
    vision=VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    ),
    llm=LlmConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tokenizer_model_max_length=256,
    ),
    model_dtype="torch.float32",
)


NVILA = replace(
    CONFIG,
    llm=replace(CONFIG.llm, family="qwen2"),
    projector="mlp_downsample_2x2_fix",
    image_order="row",
    image_end="\n",
)


@pytest.fixture(scope="module", params=[CONFIG, NVILA], ids=["VILA 1.5", "NVILA"])
def model(request: pytest.FixtureRequest) -> Vila:
    torch.manual_seed(3)
    return Vila(request.param).double()


Conversation = list[int]  # token ids; the image placeholder among them
conversations = st.lists(
    st.lists(st.one_of(st.integers(1, 63), st.just(IMAGE_TOKEN_ID)), min_size=3, max_size=12), min_size=1, max_size=5
)


def _row(*parts: Conversation, pad: int = 0) -> tuple[torch.Tensor, ...]:
    ids = torch.tensor([[*(token for part in parts for token in part), *[0] * pad]])
    starts = torch.zeros_like(ids, dtype=torch.bool)
    begin = 0
    for part in parts:
        starts[0, begin] = True
        begin += len(part)
    real = torch.arange(ids.shape[1])[None] < begin
    learned = real & (ids != IMAGE_TOKEN_ID) & ~starts
    return ids, starts, real, torch.where(learned, ids, IGNORED_LABEL)


def _images(*parts: Conversation) -> torch.Tensor | None:
    """Each picture follows from its place in the conversation, so that packed and single runs see the same."""
    pictures = [
        torch.full((3, 28, 28), (index + len(part)) / 20, dtype=torch.float64)
        for part in parts
        for index, token in enumerate(part)
        if token == IMAGE_TOKEN_ID
    ]
    return torch.stack(pictures) if pictures else None


def _gradients(model: Vila, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@settings(max_examples=25, deadline=None)
@given(parts=conversations, pad=st.integers(0, 4))
def test_loss_and_gradients_of_a_packed_row_are_those_of_its_conversations_alone(
    model: Vila, parts: list[Conversation], pad: int
) -> None:
    ids, starts, real, labels = _row(*parts, pad=pad)
    packed = model(ids, _images(*parts), attention_mask_BT=real, labels_BT=labels, starts_BT=starts)
    packed_gradients = _gradients(model, packed.loss * packed.num_targets)

    total, count = torch.zeros((), dtype=torch.float64), 0
    for part in parts:
        ids, _, real, labels = _row(part)
        alone = model(ids, _images(part), attention_mask_BT=real, labels_BT=labels)
        total, count = total + alone.loss * alone.num_targets, count + alone.num_targets
    assert packed.num_targets == count
    # The loss itself is taken in single precision.
    torch.testing.assert_close(packed.loss * count, total, rtol=1e-5, atol=1e-5, check_dtype=False)
    for name, gradient in _gradients(model, total).items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-4, atol=1e-5)


def test_logits_do_not_change_when_another_conversation_of_the_row_does(model: Vila) -> None:
    first, second, other = [1, 5, IMAGE_TOKEN_ID, 9], [1, 7, 8, 9, 3], [2, 60, 61, 62, 63]
    seen = []
    for neighbour in (second, other):
        ids, starts, real, _ = _row(neighbour, first)
        with torch.no_grad():
            seen.append(model(ids, _images(neighbour, first), attention_mask_BT=real, starts_BT=starts).logits_BLV)
    assert torch.equal(seen[0][:, 5:], seen[1][:, 5:])
    assert not torch.equal(seen[0][:, :5], seen[1][:, :5])


@settings(max_examples=25, deadline=None)
@given(opening=st.lists(st.integers(1, 63), min_size=1, max_size=9), parts=conversations, pad=st.integers(0, 4))
def test_an_opening_computed_once_gives_the_loss_and_gradients_of_one_in_every_conversation(
    model: Vila, opening: Conversation, parts: list[Conversation], pad: int
) -> None:
    ids, starts, real, labels = _row(opening, *parts, pad=pad)
    labels[0, : len(opening)] = IGNORED_LABEL
    kinds = starts * CONTINUES
    kinds[0, 0] = OPENING
    shared = model(ids, _images(*parts), attention_mask_BT=real, labels_BT=labels, starts_BT=kinds)
    shared_gradients = _gradients(model, shared.loss * shared.num_targets)

    total = torch.zeros((), dtype=torch.float64)
    for part in parts:
        ids, _, real, labels = _row([*opening, *part])
        labels[0, : len(opening) + 1] = IGNORED_LABEL
        alone = model(ids, _images(part), attention_mask_BT=real, labels_BT=labels)
        total = total + alone.loss * alone.num_targets
    torch.testing.assert_close(shared.loss * shared.num_targets, total, rtol=1e-5, atol=1e-5, check_dtype=False)
    for name, gradient in _gradients(model, total).items():
        torch.testing.assert_close(shared_gradients[name], gradient, rtol=1e-4, atol=1e-5)


@settings(deadline=None)
@given(parts=conversations, pad=st.integers(0, 4))
def test_positions_count_from_0_in_every_segment_and_behind_the_last(parts: list[Conversation], pad: int) -> None:
    ids, starts, real, _ = _row(*parts, pad=pad)
    segments = segments_of(ids, real, starts, tokens_per_image=3, limit=256)
    lengths = [len(part) + 2 * part.count(IMAGE_TOKEN_ID) for part in parts]
    assert positions_of(segments, rows=1)[0].tolist() == [place for length in lengths for place in range(length)]
    assert [one.length for one in segments] == lengths  # padding behind the last one is no position


def test_rows_of_unequal_length_keep_their_own_segments() -> None:
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0]])
    real = torch.tensor([[True] * 4, [True, True, False, False]])
    starts = torch.tensor([[OPENING, 0, CONTINUES, 0], [1, 0, 0, 0]])
    segments = segments_of(ids, real, starts, tokens_per_image=3, limit=256)
    assert positions_of(segments, rows=2).tolist() == [[0, 1, 2, 3], [0, 1, 0, 1]]
    assert segments[1:] == (
        Segment(length=2, opening=0),
        Segment(length=2),
        Segment(length=2, is_real=False),
    )


def test_what_is_beyond_the_context_is_cut() -> None:
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    starts = torch.tensor([[1, 0, 0, 1, 0]])
    segments = segments_of(ids, torch.ones_like(ids).bool(), starts, tokens_per_image=3, limit=4)
    assert [one.length for one in segments] == [3, 1]

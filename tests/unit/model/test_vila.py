"""The network against transformers' own modules, and against itself: batched and single."""

from collections.abc import Sequence

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from vilam3.errors import DataError
from vilam3.model.checkpoint import Loaded
from vilam3.model.config import IGNORED_LABEL, VilaConfig
from vilam3.model.images import pixels_NCHW
from vilam3.model.vila import Vila
from vilam3.model.vision import VisionTower

TOLERANCE = 1e-4
ROWS = ([1, 2, -200, 3, 4, 5], [7, 8], [-200, 9, -200, 10], [5] * 9)


@pytest.fixture(scope="module")
def pixels(config: VilaConfig) -> torch.Tensor:
    return torch.randn(
        3, 3, config.vision.image_size, config.vision.image_size, generator=torch.Generator().manual_seed(3)
    )


def padded(rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask, True at real tokens."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def _single(loaded: Loaded, row: list[int], pixels: torch.Tensor | None) -> torch.Tensor:
    logits = loaded.model(torch.tensor([row]), pixels).logits_BLV
    assert logits is not None
    return logits[0]


def _images_of(index: int, pixels: torch.Tensor) -> torch.Tensor | None:
    return {0: pixels[:1], 2: pixels[1:]}.get(index)


def test_the_vision_feature_is_the_last_but_one_hidden_state(config: VilaConfig) -> None:
    """Against SigLIP run whole with all hidden states; every patch token is kept."""
    vision = config.vision
    whole = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            num_hidden_layers=vision.num_hidden_layers,
            num_attention_heads=vision.num_attention_heads,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            attn_implementation="eager",
        )
    ).eval()
    tower = VisionTower(config).eval()
    tower.vision_model.load_state_dict(whole.state_dict())
    pixels = torch.randn(2, 3, vision.image_size, vision.image_size)
    with torch.no_grad():
        expected = whole(pixels, output_hidden_states=True).hidden_states[-2]
        features = tower(pixels)
    assert features.shape == (2, vision.grid**2, vision.hidden_size)
    assert (features - expected).abs().max() < TOLERANCE


@torch.no_grad()
def test_logits_equal_those_of_a_separate_llama_fed_by_hand(loaded: Loaded, pixels: torch.Tensor) -> None:
    """Image vectors in place of the placeholder, in order of appearance, and nothing around them."""
    llm = loaded.config.llm
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {name: getattr(llm, name) for name in (*names, "num_key_value_heads", "max_position_embeddings")}
    reference = LlamaForCausalLM(LlamaConfig(**sizes, rms_norm_eps=llm.rms_norm_eps, attn_implementation="eager"))
    reference.load_state_dict(loaded.model.llm.state_dict())
    reference.eval()
    table = reference.model.embed_tokens.weight
    vectors = loaded.model.mm_projector(loaded.model.vision_tower(pixels[1:]))
    embeds = torch.cat([vectors[0], table[9:10], vectors[1], table[10:11]])[None]
    expected = reference(inputs_embeds=embeds).logits[0]
    assert (_single(loaded, ROWS[2], pixels[1:]) - expected).abs().max() < TOLERANCE


@torch.no_grad()
def test_a_batch_equals_its_rows(loaded: Loaded, pixels: torch.Tensor) -> None:
    """Right-padded rows of different lengths, with two, one and no images."""
    ids, mask = padded(ROWS)
    output = loaded.model(ids, pixels, mask)
    assert output.logits_BLV is not None
    for index, row in enumerate(ROWS):
        single = _single(loaded, row, _images_of(index, pixels))
        assert int(output.mask_BL[index].sum()) == len(single)
        assert (output.logits_BLV[index][output.mask_BL[index]] - single).abs().max() < TOLERANCE


@torch.no_grad()
def test_padding_on_the_left_changes_nothing(loaded: Loaded, pixels: torch.Tensor) -> None:
    ids, mask = padded(ROWS)
    flipped = torch.zeros_like(ids)
    flipped_mask = torch.zeros_like(mask)
    for index, row in enumerate(ROWS):
        flipped[index, -len(row) :] = torch.tensor(row)
        flipped_mask[index, -len(row) :] = True
    right, left = loaded.model(ids, pixels, mask), loaded.model(flipped, pixels, flipped_mask)
    assert torch.equal(right.mask_BL, left.mask_BL)
    assert torch.equal(right.logits_BLV[right.mask_BL], left.logits_BLV[left.mask_BL])


def test_the_loss_is_the_mean_over_targets_only(loaded: Loaded, pixels: torch.Tensor) -> None:
    """The same number as cross-entropy over full logits, shifted by one, at the labelled places."""
    ids, mask = padded(ROWS)
    labels = torch.full_like(ids, IGNORED_LABEL)
    labels[0, 4:6] = ids[0, 4:6]
    labels[3, 2:9] = ids[3, 2:9]
    with torch.no_grad():
        output = loaded.model(ids, pixels, mask, labels)
        full = loaded.model(ids, pixels, mask).logits_BLV
    shift = loaded.config.tokens_per_image - 1
    picked = [full[0, 4 + shift - 1], full[0, 5 + shift - 1], *(full[3, place - 1] for place in range(2, 9))]
    targets = [*ids[0, 4:6], *ids[3, 2:9]]
    expected = torch.nn.functional.cross_entropy(torch.stack(picked), torch.stack(targets))
    assert output.num_targets == 9
    assert output.loss is not None
    assert abs(float(output.loss - expected)) < 1e-5


@pytest.mark.usefixtures("seeded")
def test_a_training_step_lowers_the_loss_of_every_part(config: VilaConfig) -> None:
    model = Vila(config)
    pixels = torch.randn(1, 3, config.vision.image_size, config.vision.image_size)
    ids = torch.tensor([[1, -200, 2, 3]])
    labels = torch.tensor([[-100, -100, 2, 3]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    first = model(ids, pixels, None, labels).loss
    first.backward()
    for part in ("llm.", "mm_projector.", "vision_tower.vision_model.embeddings."):
        own = [weight.grad for name, weight in model.named_parameters() if name.startswith(part)]
        assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in own)
    optimizer.step()
    assert model(ids, pixels, None, labels).loss < first


def test_a_text_only_batch_and_a_batch_without_targets_work(loaded: Loaded) -> None:
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        output = loaded.model(ids, None, None, torch.full_like(ids, IGNORED_LABEL))
    assert float(output.loss) == 0.0
    assert output.num_targets == 0


def test_rows_are_cut_at_the_context_as_published_training_does(loaded: Loaded) -> None:
    with torch.no_grad():
        output = loaded.model(torch.ones(1, 450, dtype=torch.long))
    assert output.logits_BLV.shape[1] == loaded.config.max_tokens == 400


@pytest.mark.parametrize("count", [0, 1, 3])
def test_images_and_placeholders_must_agree(loaded: Loaded, pixels: torch.Tensor, count: int) -> None:
    with pytest.raises(DataError, match=f"2 image placeholders but {count} images"):
        loaded.model(torch.tensor([ROWS[2]]), pixels[:count] if count else None)


def test_pixels_are_the_published_ones(config: VilaConfig, pictures: tuple, published_vision: VilaConfig) -> None:  # type: ignore[type-arg]  # pictures
    """Equal to transformers' SigLIP processor fed the resized picture: its second resize changes nothing."""
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil  # noqa: PLC0415 - slow

    for wanted in (config, published_vision):
        size = wanted.vision.image_size
        processor = SiglipImageProcessorPil(
            size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3
        )
        picture = pictures[1].resize((size, size))
        expected = processor(picture, return_tensors="pt")["pixel_values"]
        made = pixels_NCHW(pictures[1:2], wanted)
        assert made is not None
        assert made.dtype == torch.float32
        assert (made - expected).abs().max() < 1e-6


def test_no_pictures_make_no_pixels(config: VilaConfig) -> None:
    assert pixels_NCHW([], config) is None

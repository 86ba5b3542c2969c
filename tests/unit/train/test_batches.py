"""Batches: what is padded, what is learned, and that the order follows from seed and step alone."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from vilam3.data.sample import Sample, Turn
from vilam3.errors import DataError
from vilam3.model.checkpoint import Loaded
from vilam3.model.config import IGNORED_LABEL, IMAGE_TOKEN_ID
from vilam3.model.images import pixels_NCHW
from vilam3.recipe import Recipe
from vilam3.train.batches import Encoding, Examples, Feed, Pictures, collate
from vilam3.train.sources import make_feed, starting_network
from vilam3.train.step import normalise_pixels


@pytest.fixture(scope="module")
def loaded(recipe: Recipe, corpus: Path) -> Loaded:
    return starting_network(recipe, stage="stage1_align", corpus=corpus, base=None)


@pytest.fixture(scope="module")
def feed(recipe: Recipe, corpus: Path, loaded: Loaded) -> Feed:
    return make_feed(recipe, stage="stage4_expert", corpus=corpus, loaded=loaded)


@pytest.fixture(scope="module")
def encoding(loaded: Loaded) -> Encoding:
    return Encoding(
        tokenizer=loaded.tokenizer,
        template=loaded.template,
        max_tokens=256,
        tokens_per_image=loaded.config.tokens_per_image,
        normalise=False,
    )


def sample(*texts: str, images: tuple[str, ...] = ()) -> Sample:
    turns = tuple(Turn(speaker="gpt" if index % 2 else "human", text=text) for index, text in enumerate(texts))
    return Sample(sample_id="s", images=images, turns=turns)


def ids_of(feed: Feed, step: int) -> list[list[int]]:
    return [row.tolist() for batch in feed.batches(step, global_batch=4, micro_batch=2) for row in batch.input_ids_BT]


def test_the_same_step_gives_the_same_batch_whatever_was_drawn_before(
    recipe: Recipe, corpus: Path, loaded: Loaded, feed: Feed
) -> None:
    expected = [ids_of(feed, step) for step in range(8)]
    fresh = make_feed(recipe, stage="stage4_expert", corpus=corpus, loaded=loaded)
    assert [ids_of(fresh, step) for step in reversed(range(8))] == expected[::-1]


def test_an_epoch_holds_every_sample_as_often_as_its_weight(feed: Feed) -> None:
    """10 questions once, 6 expert conversations twice: 22 samples, and then the next epoch."""
    assert feed.sizes == {"expert": 6, "vqa": 10}
    seen: Counter[int] = Counter()
    for batch in feed.batches(0, global_batch=22, micro_batch=22):
        seen.update((row == IMAGE_TOKEN_ID).sum().item() for row in batch.input_ids_BT)
    assert seen == {2: 12, 1: 10}


def test_similar_lengths_share_a_batch(feed: Feed) -> None:
    widths = [batch.input_ids_BT.shape[1] for batch in feed.batches(0, global_batch=12, micro_batch=3)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1]


def test_padding_is_masked_and_never_learned(encoding: Encoding, corpus: Path, loaded: Loaded) -> None:
    examples = Examples("x", [sample("a", "b"), sample("a longer question?", "and a longer answer.")], encoding)
    batch = collate([examples[0], examples[1]], Pictures(corpus, size=42))
    assert batch.pixels_NCHW is None
    width = len(examples[0].input_ids_T)
    assert batch.mask_BT[0].tolist() == [True] * width + [False] * (batch.mask_BT.shape[1] - width)
    assert (batch.labels_BT[~batch.mask_BT] == IGNORED_LABEL).all()
    output = loaded.model(batch.input_ids_BT, None, attention_mask_BT=batch.mask_BT, labels_BT=batch.labels_BT)
    assert output.num_targets == batch.num_targets


def test_only_the_answer_is_learned(encoding: Encoding) -> None:
    example = Examples("x", [sample("Is there a tumor?", "yes")], encoding)[0]
    learned = [int(index) for index in example.labels_T if index != IGNORED_LABEL]
    assert encoding.tokenizer.decode(learned).startswith("yes")


def test_pictures_follow_the_order_of_their_places(encoding: Encoding, corpus: Path, loaded: Loaded) -> None:
    names = ("images/3.png", "images/0.png", "images/3.png")
    examples = Examples(
        "x", [sample("<image><image>", "b", images=names[:2]), sample("<image>", "b", images=names[2:])], encoding
    )
    batch = collate([examples[0], examples[1]], Pictures(corpus, size=42))
    expected = pixels_NCHW([Image.open(corpus / name) for name in names], loaded.config)
    assert expected is not None
    assert batch.pixels_NCHW is not None
    assert torch.equal(normalise_pixels(batch.pixels_NCHW, loaded.config.vision), expected)


def test_pictures_beyond_the_memory_are_the_same(corpus: Path) -> None:
    kept, lazy = Pictures(corpus, size=42), Pictures(corpus, size=42, memory_bytes=0)
    assert kept["images/1.png"] is kept["images/1.png"]
    assert lazy["images/1.png"] is not lazy["images/1.png"]
    assert torch.equal(kept["images/1.png"], lazy["images/1.png"])


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    pictures = Pictures(tmp_path, size=42)
    with pytest.raises(DataError, match=r"text\.png: cannot be read as an image"):
        pictures["text.png"]
    with pytest.raises(DataError, match=r"absent\.png: cannot be read as an image"):
        pictures["absent.png"]


def test_a_sample_whose_answer_does_not_fit_is_refused(encoding: Encoding) -> None:
    with pytest.raises(DataError, match="dataset x sample s: no answer is left within 256 tokens"):
        Examples("x", [sample("word " * 400, "yes")], encoding)[0]


def test_a_cut_sample_keeps_only_the_pictures_that_are_left(encoding: Encoding) -> None:
    long = sample("<image>", "yes", "more " * 400 + "<image>", "no", images=("images/1.png", "images/2.png"))
    example = Examples("x", [long], encoding)[0]
    assert example.images == ("images/1.png",)
    assert example.length <= 256

"""A stage reads a corpus in shards as it reads the folder that they were written from."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vilam3.cli.main import main
from vilam3.corpus.sharding import Cut, shard_corpus
from vilam3.data.shards import MANIFEST, read_index
from vilam3.errors import ArtifactError, DataError
from vilam3.model.checkpoint import Loaded
from vilam3.recipe import Recipe
from vilam3.train import local
from vilam3.train.batches import Feed
from vilam3.train.sources import brought_corpus, inputs_of, make_feed, starting_network

STAGE = "stage4_expert"


@pytest.fixture(scope="session")
def whole_window(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In ten shards, all in one window."""
    out = tmp_path_factory.mktemp("shards") / "whole"
    shard_corpus(corpus, out=str(out), cut=Cut(max_samples=4, mixed_shards=20))
    return out


@pytest.fixture(scope="session")
def small_windows(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In windows of two shards."""
    out = tmp_path_factory.mktemp("shards") / "small"
    shard_corpus(corpus, out=str(out), cut=Cut(max_samples=2, mixed_shards=2))
    return out


@pytest.fixture(scope="session")
def loaded(recipe: Recipe, corpus: Path) -> Loaded:
    return starting_network(recipe, stage="stage1_align", corpus=corpus, base=None)


@pytest.fixture
def streamed(recipe: Recipe, small_windows: Path, loaded: Loaded) -> Iterator[Feed]:
    feed = make_feed(recipe, stage=STAGE, corpus=small_windows, loaded=loaded)
    yield feed
    feed.close()


def test_training_on_shards_of_one_window_equals_training_on_the_folder(
    recipe: Recipe, corpus: Path, whole_window: Path, tmp_path: Path
) -> None:
    """From nothing, the tokenizer included, and bit by bit."""
    losses = []
    for place in (corpus, whole_window):
        result = local.run(recipe, stage="stage1_align", corpus=place, base=None, out=tmp_path / place.name)
        losses.append((result.losses, result.weights_digest))
    assert losses[0] == losses[1]


def test_samples_of_a_step_depend_neither_on_the_world_nor_on_what_is_open(
    recipe: Recipe, small_windows: Path, loaded: Loaded, streamed: Feed
) -> None:
    together = [streamed.drawn(step, global_batch=5) for step in range(9)]
    names = [{one.sample_id for one in drawn} for drawn in together]
    fresh = make_feed(recipe, stage=STAGE, corpus=small_windows, loaded=loaded)
    for step in (8, 3, 4):
        apart = [one for rank in range(3) for one in fresh.drawn(step, global_batch=5, rank=rank, world_size=3)]
        assert {one.sample_id for one in apart} == names[step]
    fresh.close()


def test_every_sample_is_seen_in_an_epoch_and_few_shards_are_open_at_once(streamed: Feed) -> None:
    seen: dict[str, int] = {}
    for step in range(22):  # ten questions, and six conversations twice
        for batch in streamed.batches(step, global_batch=1, micro_batch=1):
            for name in batch.samples:
                seen[name] = seen.get(name, 0) + 1
        assert len(streamed._order._shards._opened) <= 4  # type: ignore[attr-defined]  # two windows of two
    assert seen == {f"vqa-{n}": 1 for n in range(10)} | {f"expert-{n}": 2 for n in range(6)}


def test_pictures_are_those_of_the_folder(recipe: Recipe, corpus: Path, loaded: Loaded, whole_window: Path) -> None:
    feeds = [make_feed(recipe, stage=STAGE, corpus=place, loaded=loaded) for place in (corpus, whole_window)]
    for step in range(3):
        pairs = zip(*(feed.batches(step, global_batch=4, micro_batch=2) for feed in feeds), strict=True)
        for one, other in pairs:
            assert one.samples == other.samples
            assert torch.equal(one.input_ids_BT, other.input_ids_BT)
            if one.pixels_NCHW is not None:
                assert other.pixels_NCHW is not None
                assert torch.equal(one.pixels_NCHW, other.pixels_NCHW)
    for feed in feeds:
        feed.close()


def test_the_index_names_the_run_wherever_the_shards_lie(
    recipe: Recipe, corpus: Path, small_windows: Path, whole_window: Path, tmp_path: Path
) -> None:
    def named(place: Path) -> str:
        return inputs_of(recipe, stage="stage1_align", corpus=place, base=None)["corpus"]

    elsewhere = tmp_path / "index"
    at = (tmp_path / "shards").as_uri()
    shard_corpus(corpus, out=str(elsewhere), at=at, cut=Cut(max_samples=2, mixed_shards=2))
    assert named(elsewhere) == named(small_windows) != named(whole_window)
    assert brought_corpus(elsewhere.as_uri()) == elsewhere


def test_a_damaged_shard_stops_the_stage_by_name_though_pictures_may_be_left_out(
    recipe: Recipe, corpus: Path, tmp_path: Path, loaded: Loaded
) -> None:
    shard_corpus(corpus, out=str(tmp_path), cut=Cut(max_samples=4))
    path = tmp_path / "shards" / "vqa-00001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    table = recipe.model_dump()
    table["stages"][STAGE]["corrupt_images_max"] = 100
    feed = make_feed(Recipe.model_validate(table), stage=STAGE, corpus=tmp_path, loaded=loaded)
    with pytest.raises(ArtifactError, match=r"shard vqa-00001\.tar of .*: is not the one of the index"):
        feed.batches(0, global_batch=22, micro_batch=2)
    feed.close()


def test_a_picture_that_cannot_be_decoded_is_left_out_as_in_a_folder(
    recipe: Recipe, corpus: Path, tmp_path: Path, loaded: Loaded, caplog: pytest.LogCaptureFixture
) -> None:
    whole = tmp_path / "whole"
    for file in corpus.rglob("*"):
        if file.is_file():
            (whole / file.relative_to(corpus)).parent.mkdir(parents=True, exist_ok=True)
            (whole / file.relative_to(corpus)).write_bytes(file.read_bytes())
    (whole / "images" / "3.png").write_bytes(b"no picture")
    shard_corpus(whole, out=str(tmp_path / "out"), cut=Cut(max_samples=2, mixed_shards=2))
    table = recipe.model_dump()
    table["stages"][STAGE]["corrupt_images_max"] = 3
    feed = make_feed(Recipe.model_validate(table), stage=STAGE, corpus=tmp_path / "out", loaded=loaded)
    with caplog.at_level(logging.WARNING):
        for step in range(22):
            feed.batches(step, global_batch=1, micro_batch=1)
    feed.close()
    assert feed.unreadable == {"vqa-3", "expert-2", "expert-3"}
    assert "vqa-00001.tar/000000003.0.png: cannot be read as an image" in caplog.text


def test_a_dataset_that_is_not_in_the_index_is_named(recipe: Recipe, small_windows: Path) -> None:
    table = recipe.model_dump()
    table["stages"][STAGE]["mixture"]["report"] = 1
    with pytest.raises(DataError, match=r"mixture\.report: .* the corpus has captions, expert, text, vqa"):
        inputs_of(Recipe.model_validate(table), stage=STAGE, corpus=small_windows, base=None)


def test_the_command_line_writes_and_checks_shards(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["corpus", "shard", str(corpus), "--out", str(out), "--samples", "5", "--window", "3"]) == 0
    assert "12 captions, 6 expert, 4 text, 10 vqa; 8 shards" in capsys.readouterr().out
    index = read_index(out)
    assert index is not None
    assert json.loads((out / MANIFEST).read_text())["digest"] == index.digest
    assert main(["corpus", "check", str(out)]) == 0
    assert "8 shards, 32 samples, all as the index says" in capsys.readouterr().out
    (out / "shards" / "text-00000.tar").write_bytes(b"?")
    assert main(["corpus", "check", str(out)]) == 1
    assert "shard text-00000.tar of" in capsys.readouterr().err
    assert main(["corpus", "shard", str(corpus), "--out", str(out), "--held-out", "3", "--seed", "1"]) == 0
    assert " held out; " in capsys.readouterr().out
    assert main(["corpus", "shard", str(corpus), "--out", str(out), "--held-out", "-1"]) == 2
    assert main(["corpus", "shard", str(tmp_path / "none"), "--out", str(tmp_path / "no")]) == 2
    assert not (tmp_path / "no").exists()
    assert main(["corpus", "check", str(corpus)]) == 2
    assert main(["corpus", "shard", str(corpus), "--out", str(out), "--samples", "0"]) == 2
    assert main(["corpus", "shard", str(corpus), "--out", str(out), "--window", "257"]) == 2

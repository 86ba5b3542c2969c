"""Shards are what WebDataset, which defined their layout, reads."""

import gc
import io
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from tests.unit.train.conftest import corpus
from vilam3.corpus.sharding import Cut, shard_corpus
from vilam3.data.llava import read_samples

__all__ = ["corpus"]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # it leaves closing to the garbage collector
def test_webdataset_reads_conversations_and_pictures_from_shards(corpus: Path, tmp_path: Path) -> None:
    index = shard_corpus(corpus, out=str(tmp_path), cut=Cut(max_samples=2))
    files = [str(tmp_path / "shards" / shard.name) for shard in index.datasets["expert"]]
    found = list(webdataset.WebDataset(files, shardshuffle=False, empty_check=False).decode("pilrgb"))
    gc.collect()
    wanted = read_samples(corpus / "samples" / "expert.json")
    assert [one["json"]["id"] for one in found] == [sample.sample_id for sample in wanted]
    for one, sample in zip(found, wanted, strict=True):
        assert [turn["value"] for turn in one["json"]["conversations"]] == [turn.text for turn in sample.turns]
        for number, image in enumerate(sample.images):
            shown = Image.open(io.BytesIO((corpus / image).read_bytes())).convert("RGB")
            assert one[f"{number}.png"].tobytes() == shown.tobytes()

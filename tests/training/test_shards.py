"""A corpus in shards in a real S3, streamed by several processes: killed, away for a while or for good, damaged."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import boto3
import psutil
import pytest

from tests.e2e.s3_server import S3, s3_server
from tests.training.processes import Mischief, Place, finished, run_gang
from vilam3.cli.main import main
from vilam3.corpus.sharding import Cut, shard_corpus
from vilam3.objects import open_store
from vilam3.train import local
from vilam3.train.order import Order
from vilam3.train.shard_files import CACHE_VARIABLE, GIB
from vilam3.train.strategy import StrategyName

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
SMALL = Cut(max_samples=1, mixed_shards=3)
AT = "s3://hospital/corpus"
AWAY_S = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming(Place):
    """A place whose corpus is streamed."""

    streamed: str = AT

    def order(self, strategy: StrategyName, *, out: str = "out") -> Order:
        """To train the stage on it."""
        return replace(Place.order(self, strategy, out=out), corpus=self.streamed)


@pytest.fixture(scope="module")
def s3(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """It holds the corpus, every sample in a shard of its own."""
    with s3_server(tmp_path_factory.mktemp("s3")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment().items():
            patch.setenv(name, value)
        boto3.session.Session().client("s3").create_bucket(Bucket="hospital")
        shard_corpus(corpus, out=AT, cut=SMALL)
        yield running


@pytest.fixture
def streaming(place: Place, s3: S3, monkeypatch: pytest.MonkeyPatch) -> Streaming:
    """With a cold cache of its own, no larger than two windows of the largest shards."""
    (place.folder / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place.folder / "tmp"))
    sizes = [entry.num_bytes for entry in open_store(AT).entries("shards")]
    monkeypatch.setenv(CACHE_VARIABLE, str((2 * SMALL.mixed_shards * max(sizes) + 1) / GIB))
    return Streaming(
        recipe=place.recipe,
        corpus=place.corpus,
        base=place.base,
        folder=place.folder,
        environment=s3.environment(),
    )


def cached(place: Place) -> list[Path]:
    """The shards on this machine."""
    return list((place.folder / "tmp").glob("vilam3-inputs-*/shards/*.tar"))


def test_streamed_from_s3_by_two_is_what_one_trains_from_a_disk(streaming: Streaming, tmp_path: Path) -> None:
    """The cache holds a part of the corpus at the end, and no other copy was made."""
    found = finished(run_gang(streaming, 2, "ddp"))
    here = tmp_path / "here"
    index = shard_corpus(streaming.corpus, out=str(here), cut=SMALL)
    again = finished(run_gang(replace(streaming, streamed=str(here)), 2, "ddp", out="again"))
    assert found["weights_digest"] == again["weights_digest"]
    assert found["inputs"] == again["inputs"]
    alone = local.run(
        streaming.recipe, stage=streaming.stage, corpus=here, base=streaming.base, out=streaming.folder / "alone"
    )
    assert found["losses"] == pytest.approx(alone.losses, abs=2e-4)
    assert found["inputs"] == alone.inputs
    assert 0 < len(cached(streaming)) < len(list(index.shards()))
    assert sum(file.stat().st_size for file in cached(streaming)) <= GIB * float(os.environ[CACHE_VARIABLE])
    assert not list((streaming.folder / "tmp").rglob("*.png"))


def test_a_folder_of_the_index_alone_streams_from_where_it_says(streaming: Streaming) -> None:
    """So a step of a pipeline is given a small artifact, whatever the corpus weighs."""
    index, at = streaming.folder / "index", "s3://hospital/elsewhere"
    shard_corpus(streaming.corpus, out=str(index), at=at, cut=SMALL)
    assert [file.name for file in index.iterdir()] == ["corpus.json"]
    places = {"index": index, "whole": streaming.folder / "whole"}
    shard_corpus(streaming.corpus, out=str(places["whole"]), cut=SMALL)
    weights = [
        local.run(
            streaming.recipe,
            stage=streaming.stage,
            corpus=place,
            base=streaming.base,
            out=streaming.folder / f"by-{name}",
        ).weights_digest
        for name, place in places.items()
    ]
    assert weights[0] == weights[1]
    assert cached(streaming)


def test_killed_and_gone_on_while_streaming_ends_in_equal_bits(streaming: Streaming) -> None:
    calm = finished(run_gang(streaming, 2, "zero2", out="calm"))
    for step in (3, 7):
        endings = run_gang(streaming, 2, "zero2", mischief=Mischief(dies_after_step=step))
        assert -9 in {ending.code for ending in endings}
    assert finished(run_gang(streaming, 2, "zero2"))["weights_digest"] == calm["weights_digest"]


def test_a_store_that_is_away_for_a_while_is_awaited(streaming: Streaming, s3: S3) -> None:
    def away(_: Sequence[int]) -> None:
        while not cached(streaming):
            time.sleep(0.01)
        server = psutil.Process(s3.process.pid)
        server.suspend()
        time.sleep(AWAY_S)
        server.resume()

    assert finished(run_gang(streaming, 2, "ddp", while_running=away))


def test_a_store_that_stays_away_ends_the_run_with_one_sentence(
    place: Place, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path_factory.mktemp("gone")
    (place.folder / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place.folder / "tmp"))
    with s3_server(root) as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        boto3.session.Session().client("s3").create_bucket(Bucket="gone")
        shard_corpus(place.corpus, out="s3://gone/corpus", cut=SMALL)

        def kill(_: Sequence[int]) -> None:
            while not cached(place):
                time.sleep(0.01)
            running.process.kill()

        gone = Streaming(
            recipe=place.recipe,
            corpus=place.corpus,
            base=place.base,
            folder=place.folder,
            environment=running.environment(),
            streamed="s3://gone/corpus",
        )
        endings = run_gang(gone, 2, "ddp", mischief=Mischief(patience_s=3.0), while_running=kill)
    told = [one for one in endings if one.error == "OutOfReachError"]  # to the other a peer may be lost
    assert told, endings
    assert told[0].code == 1
    assert "store s3://gone: out of reach" in told[0].message
    assert not (place.folder / "out").exists()


def test_a_shard_that_is_damaged_in_the_store_is_named(streaming: Streaming) -> None:
    at = "s3://hospital/damaged"
    shard_corpus(streaming.corpus, out=at, cut=SMALL)
    store, name = open_store(at), "vqa-00004.tar"
    content = bytearray(store.get(f"shards/{name}"))
    content[len(content) // 2] ^= 1
    store.put(f"shards/{name}", bytes(content))
    endings = run_gang(replace(streaming, streamed=at), 2, "ddp")
    told = [ending for ending in endings if ending.error == "ArtifactError"]
    assert told, endings
    assert f"shard {name} of {at}/shards: is not the one of the index" in told[0].message
    assert told[0].code == 1
    assert [main(["corpus", "check", place]) for place in (AT, at)] == [0, 1]

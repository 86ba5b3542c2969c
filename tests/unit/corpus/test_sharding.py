"""A corpus in shards holds what the corpus held, is named by its index, and is written whole."""

import json
import shutil
import tarfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.train.conftest import corpus
from vilam3.artifacts import sha256_file, sha256_tree
from vilam3.corpus.sharding import Cut, HeldOut, shard_corpus
from vilam3.data.held_out import name_of
from vilam3.data.llava import read_samples
from vilam3.data.sample import Sample
from vilam3.data.shards import MANIFEST, OpenShard, Shard, ShardIndex, read_index
from vilam3.errors import DataError

__all__ = ["corpus"]
SMALL = Cut(max_samples=4, mixed_shards=3)


def sharded(whole: Path, out: Path, cut: Cut = SMALL) -> ShardIndex:
    return shard_corpus(whole, out=str(out), cut=cut)


def test_every_sample_and_every_picture_is_in_its_place(corpus: Path, tmp_path: Path) -> None:
    index = sharded(corpus, tmp_path / "out")
    assert index.sizes == {"captions": 12, "expert": 6, "text": 4, "vqa": 10}
    for dataset, shards in index.datasets.items():
        wanted = read_samples(corpus / "samples" / f"{dataset}.json")
        for shard in shards:
            assert shard.num_samples <= 4
            with closing(OpenShard((tmp_path / "out" / "shards" / shard.name).open("rb"), shard)) as opened:
                for number in range(len(opened)):
                    found, sample = opened.sample(number), wanted.pop(0)
                    assert (found.sample_id, found.turns, found.task, found.patient) == (
                        sample.sample_id,
                        sample.turns,
                        sample.task,
                        sample.patient,
                    )
                    for name, image in zip(found.images, sample.images, strict=True):
                        assert opened.picture(name.partition("/")[2]) == (corpus / image).read_bytes()
        assert not wanted


def test_the_same_corpus_gives_the_same_shards_and_one_digest_wherever_they_lie(corpus: Path, tmp_path: Path) -> None:
    first, second = sharded(corpus, tmp_path / "a"), sharded(corpus, tmp_path / "b")
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")
    elsewhere = (tmp_path / "elsewhere").as_uri()
    third = shard_corpus(corpus, out=str(tmp_path / "c"), at=elsewhere, cut=SMALL)
    assert first.digest == second.digest == third.digest
    assert third.at == elsewhere
    assert not (tmp_path / "c" / "shards").exists()
    for shard in third.shards():
        assert sha256_file(tmp_path / "elsewhere" / shard.name) == shard.sha256
    assert sharded(corpus, tmp_path / "d", Cut(max_samples=4, mixed_shards=4)).digest != first.digest


def read_back(folder: Path, shards: Iterable[Shard]) -> list[Sample]:
    found = []
    for shard in shards:
        with closing(OpenShard((folder / "shards" / shard.name).open("rb"), shard)) as opened:
            found += [opened.sample(number) for number in range(len(opened))]
    return found


def test_held_out_patients_have_shards_of_their_own(corpus: Path, tmp_path: Path) -> None:
    index = shard_corpus(corpus, out=str(tmp_path / "out"), cut=SMALL, held_out=HeldOut(num_samples=5, seed=3))
    names = {shard.name for shard in index.shards()}
    assert names == {path.name for path in (tmp_path / "out" / "shards").iterdir()}
    learned, held = (
        [one for shards in side.values() for one in read_back(tmp_path / "out", shards)]
        for side in (index.datasets, index.held_out)
    )
    assert not {name_of(one) for one in learned} & {name_of(one) for one in held}
    assert len(held) == sum(index.held_out_sizes.values()) >= 5
    assert len(learned) == sum(index.sizes.values()) == 32 - len(held)
    assert read_index(tmp_path / "out") == index
    digests = {index.digest, sharded(corpus, tmp_path / "whole").digest}
    digests.add(shard_corpus(corpus, out=str(tmp_path / "b"), cut=SMALL, held_out=HeldOut(num_samples=5)).digest)
    assert len(digests) == 3


def test_something_is_left_to_learn_of_every_dataset(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"31 samples held out: nothing of \w+ would be left; hold out fewer"):
        shard_corpus(corpus, out=str(tmp_path / "out"), held_out=HeldOut(num_samples=31))
    whole = shutil.copytree(corpus, tmp_path / "whole")
    (whole / "samples" / "vqa.json").rename(whole / "samples" / "held-out.vqa.json")
    with pytest.raises(DataError, match=r"held-out\.vqa\.json: .* rename it"):
        sharded(whole, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shard_is_cut_by_bytes_too_and_holds_at_least_one_sample(corpus: Path, tmp_path: Path) -> None:
    index = sharded(corpus, tmp_path / "out", Cut(max_bytes=1))
    assert {shard.num_samples for shard in index.shards()} == {1}


def test_what_else_a_corpus_has_is_taken_along(corpus: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(corpus, tmp_path / "whole")
    (whole / "questions").mkdir()
    (whole / "questions" / "test.jsonl").write_text("{}\n")
    index = sharded(whole, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["corpus.json", "questions", "shards"]
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["name"], manifest["digest"], manifest["samples"]) == ("noise", index.digest, index.sizes)
    assert read_index(tmp_path / "out") == index
    assert read_index(whole) is None


def test_a_missing_picture_is_named_and_nothing_is_written(corpus: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(corpus, tmp_path / "whole")
    (whole / "images" / "3.png").unlink()
    with pytest.raises(DataError, match=r"3\.png: cannot be read .* sample captions-3 shows it"):
        sharded(whole, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    sharded(corpus, tmp_path / "again")
    with pytest.raises(DataError, match="in shards already"):
        sharded(tmp_path / "again", tmp_path / "twice")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told["shards"]["datasets"]["vqa"][0].update(num_samples=5), "not what its digest was taken of"),
        (lambda told: told["shards"]["datasets"]["vqa"][0].update(name="../vqa.tar"), "is not a corpus manifest"),
        (lambda told: told.update(shards=[1]), "is not a corpus manifest"),
    ],
)
def test_an_index_that_was_changed_is_refused(corpus: Path, tmp_path: Path, change: object, said: str) -> None:
    sharded(corpus, tmp_path / "out")
    path = tmp_path / "out" / MANIFEST
    told = json.loads(path.read_text())
    assert callable(change)
    change(told)
    path.write_text(json.dumps(told))
    with pytest.raises(DataError, match=said):
        read_index(tmp_path / "out")


def test_a_tar_that_is_not_what_the_index_says_is_refused(corpus: Path, tmp_path: Path) -> None:
    (shard, *_) = sharded(corpus, tmp_path / "out").datasets["vqa"]
    path = tmp_path / "out" / "shards" / shard.name
    with path.open("rb") as stream, pytest.raises(DataError, match="has 4 samples, the index says 3"):
        OpenShard(stream, shard.model_copy(update={"num_samples": 3}))
    with tarfile.open(path) as archive:  # what any tool finds in it
        assert archive.getnames()[:4] == ["000000000.json", "000000000.0.png", "000000001.json", "000000001.0.png"]
    path.write_bytes(b"no tar at all" * 100)
    with path.open("rb") as stream, pytest.raises(DataError, match="is not a tar file"):
        OpenShard(stream, shard)

"""What a step waits for data that is streamed from S3, and what is saved by not fetching the whole corpus first.

The server is a real one on this machine, with signatures, and the cache is cold. Shards and windows are small, so that
the few steps of a run come to a second window as a long run does; a window lasts three steps here, and eight of the
published stage 4 with the shards that `vilam3 corpus shard` writes.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from bench.record import Figure
from bench.training.corpus import write_corpus
from bench.training.runs import train
from bench.training.workload import recipe_of, workload
from tests.e2e.s3_server import s3_server
from vilam3.corpus.sharding import Cut, shard_corpus
from vilam3.errors import PrerequisiteError
from vilam3.model import checkpoint
from vilam3.objects import open_store
from vilam3.train.sources import brought, brought_corpus

STEPS = 4
CUT = Cut(max_samples=6, mixed_shards=16)
MOST_WAIT = 0.02
BUCKET = "bench"


def figures() -> list[Figure]:
    """The share is of the time of all steps of one process, the first step's data included."""
    with tempfile.TemporaryDirectory(prefix="vilam3-bench-") as name:
        folder = Path(name)
        write_corpus(folder / "corpus")
        with _stored(folder):
            index = shard_corpus(folder / "corpus", out=f"s3://{BUCKET}/shards", cut=CUT)
            whole_s = _seconds(f"s3://{BUCKET}/folder", whole=True)
            index_s = _seconds(f"s3://{BUCKET}/shards", whole=False)
            base = folder / "base"  # who starts from nothing reads all texts first, for the tokenizer
            checkpoint.save(workload(folder / "corpus").loaded, base)
            recipe = recipe_of(steps=STEPS, checkpoint_every_steps=STEPS)
            told = train(recipe, corpus=f"s3://{BUCKET}/shards", out=folder / "streamed", workers=1, base=base)
        num_bytes = sum(shard.num_bytes for shard in index.shards())
        fetched = sum(file.stat().st_size for file in (folder / "tmp").rglob("*.tar"))
    wait_s, seconds = float(told["settings"]["data_wait_s"]), float(told["seconds"])
    return [
        Figure(name="streamed_data_wait_fraction", value=wait_s / seconds, unit="share", baseline=MOST_WAIT),
        Figure(name="fetched before the first step, index of shards", value=index_s, unit="s", baseline=whole_s),
        Figure(name="share of the shards fetched in these steps", value=fetched / num_bytes, unit="share"),
        Figure(name="seconds a step, streamed", value=seconds / STEPS, unit="s"),
    ]


@contextmanager
def _stored(folder: Path) -> Iterator[None]:
    """A server that has the corpus as files, and a cold place for what is brought from it."""
    try:
        with s3_server(folder / "s3") as running, pytest.MonkeyPatch.context() as patch:
            (folder / "tmp").mkdir()
            patch.setenv("TMPDIR", str(folder / "tmp"))
            patch.setattr(tempfile, "tempdir", str(folder / "tmp"))
            for variable, value in running.environment().items():
                patch.setenv(variable, value)
            boto3.session.Session().client("s3").create_bucket(Bucket=BUCKET)
            store = open_store(f"s3://{BUCKET}/folder")
            for file in sorted((folder / "corpus").rglob("*")):
                if file.is_file():
                    store.put(file.relative_to(folder / "corpus").as_posix(), file)
            yield
    except pytest.skip.Exception as skipped:
        raise PrerequisiteError(f"train_streamed: {skipped}") from skipped


def _seconds(place: str, *, whole: bool) -> float:
    began = time.monotonic()
    (brought if whole else brought_corpus)(place)
    return time.monotonic() - began

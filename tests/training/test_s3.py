"""Checkpoints and models in a real S3 that checks signatures: killed, resumed, away for a while, registered by URI."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import boto3
import psutil
import pytest

from tests.e2e.s3_server import S3, s3_server
from tests.training.processes import Mischief, Place, finished, run_gang
from vilam3.artifacts import sha256_tree
from vilam3.errors import CheckpointError, NotFoundError
from vilam3.objects import open_store
from vilam3.registration import register_checkpoint
from vilam3.tracking import connect
from vilam3.train.sources import brought
from vilam3.weights import fetch

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
AWAY_S = 30.0
MOST_S = 20.0  # that registering may take on a machine with much else to do


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment().items():
            patch.setenv(name, value)
        boto3.session.Session().client("s3").create_bucket(Bucket="hospital")
        yield running


@pytest.fixture
def stored(place: Place, s3: S3, request: pytest.FixtureRequest) -> Place:
    """A place whose checkpoints are in S3."""
    return replace(place, checkpoints=f"s3://hospital/{request.node.name}", environment=s3.environment())


def test_killed_and_gone_on_from_s3_and_registered_from_there(stored: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights go through the tracking server, and none are read to register them."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    calm = finished(run_gang(replace(stored, checkpoints=""), 2, "ddp", out="calm"))
    tracked = replace(stored, runs=stored.folder / "runs")
    assert {ending.code for ending in run_gang(tracked, 2, "ddp", mischief=Mischief(dies_after_step=7))} & {-9}
    found = finished(run_gang(tracked, 2, "ddp"))
    assert found["weights_digest"] == calm["weights_digest"]
    names = tracked.recipe.tracking
    tracking = connect(
        experiment=names.experiment, registered_model=names.registered_model, runs=stored.folder / "runs"
    )
    best = tracking.best_checkpoint("loss")
    assert best is not None
    assert best.source.startswith(stored.checkpoints)
    run = next(iter(open_store("s3://hospital").entries(stored.checkpoints.rpartition("/")[2]))).key.split("/")[1]
    for name in ("model", "checkpoints/step-00000006"):
        uri, started = f"{stored.checkpoints}/{run}/{name}", time.monotonic()
        version = register_checkpoint(tracking, uri)
        assert time.monotonic() - started < MOST_S
        assert version.source == uri
        fetch(uri, stored.folder / "fetched" / name)
    assert version.tags["model_id"]
    with pytest.raises(CheckpointError, match="no finished stage"):
        register_checkpoint(tracking, f"{stored.checkpoints}/{run}/checkpoints/step-00000001")


def test_a_finished_stage_is_never_trained_or_written_again(stored: Place) -> None:
    """It may be the champion by now; who asks for it elsewhere, with other members, gets those very bits."""
    first = finished(run_gang(stored, 2, "ddp"))
    store, prefix = open_store("s3://hospital"), stored.checkpoints.rpartition("/")[2]
    before = {entry.key: (entry.num_bytes, entry.modified_s) for entry in store.entries(prefix)}
    assert any("/model/" in key for key in before)
    assert any("/checkpoints/step-00000009/" in key for key in before)
    again = finished(run_gang(stored, 3, "ddp", out="elsewhere"))
    assert again["weights_digest"] == first["weights_digest"]
    assert {entry.key: (entry.num_bytes, entry.modified_s) for entry in store.entries(prefix)} == before
    places = [stored.folder / out / "checkpoints" for out in ("out", "elsewhere")]
    kept = [sorted(path.name for path in place.iterdir()) for place in places]
    assert kept[0] == kept[1] == ["step-00000003", "step-00000006", "step-00000009"]
    assert sha256_tree(stored.folder / "elsewhere") == sha256_tree(stored.folder / "out")


def test_a_store_that_is_away_for_half_a_minute_is_awaited(stored: Place, s3: S3) -> None:
    assert s3.endpoint

    def away(_: Sequence[int]) -> None:
        store = open_store("s3://hospital")
        prefix = stored.checkpoints.rpartition("/")[2]
        while not any(entry.key.endswith("manifest.json") for entry in store.entries(prefix)):
            time.sleep(0.2)
        (server,) = [one for one in psutil.Process().children() if "versitygw" in one.name()]
        server.suspend()
        time.sleep(AWAY_S)
        server.resume()

    assert finished(run_gang(stored.changed(steps=12, checkpoint_every_steps=2), 2, "ddp", while_running=away))


def test_a_store_that_stays_away_ends_the_run_with_one_sentence(
    place: Place, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server is killed once there is a checkpoint; what was saved before is still in its folder."""
    root = tmp_path_factory.mktemp("gone")
    with s3_server(root) as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        boto3.session.Session().client("s3").create_bucket(Bucket="gone")

        def kill(_: Sequence[int]) -> None:
            store = open_store("s3://gone")
            while not any(entry.key.endswith("manifest.json") for entry in store.entries("run")):
                time.sleep(0.05)
            running.process.kill()

        stored = replace(place, checkpoints="s3://gone/run", environment=running.environment())
        longer = stored.changed(steps=400, checkpoint_every_steps=2)
        endings = run_gang(longer, 2, "ddp", mischief=Mischief(patience_s=3.0), while_running=kill)
    assert (endings[0].code, endings[0].error) == (1, "OutOfReachError")
    assert "store s3://gone: out of reach" in endings[0].message
    assert not (place.folder / "out").exists()
    assert list(root.rglob("manifest.json"))


def test_corpus_and_base_come_from_s3_too(stored: Place, s3: S3) -> None:
    assert s3.endpoint
    assert stored.base is not None
    store = open_store("s3://hospital/inputs")
    for name, folder in (("corpus", stored.corpus), ("base", stored.base)):
        for file in folder.rglob("*"):
            if file.is_file():
                store.put(f"{name}/{file.relative_to(folder).as_posix()}", file)
    here = finished(run_gang(replace(stored, checkpoints=""), 2, "ddp", out="here"))
    corpus, base = brought("s3://hospital/inputs/corpus"), brought("s3://hospital/inputs/base")
    there = finished(run_gang(replace(stored, corpus=corpus, base=base), 2, "ddp", out="there"))
    assert there["weights_digest"] == here["weights_digest"]
    assert there["inputs"] == here["inputs"]
    with pytest.raises(NotFoundError, match="nothing is there"):
        brought("s3://hospital/inputs/none")
    assert json.loads((corpus / "corpus.json").read_text())["name"] == "noise"

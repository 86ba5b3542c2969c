"""Rules of `vilam3 model fetch`: whole or not at all, from a folder or from what the tracking store names."""

from pathlib import Path

import pytest

from vilam3.cli.main import main
from vilam3.errors import NotFoundError, UserError
from vilam3.tracking import connect
from vilam3.train.record import Checkpoint
from vilam3.weights import fetch


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Weights with a folder in them."""
    folder = tmp_path / "store" / "models" / "tiny"
    (folder / "llm").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "llm" / "model.safetensors").write_bytes(b"\0" * 1000)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_below_a_place_comes(kept: Path, tmp_path: Path) -> None:
    assert fetch(kept.as_uri(), tmp_path / "out") == 1002
    assert _files(tmp_path / "out") == _files(kept)


def test_again_replaces_what_was_there(kept: Path, tmp_path: Path) -> None:
    fetch(kept.as_uri(), tmp_path / "out")
    (kept / "config.json").unlink()
    fetch(kept.as_uri(), tmp_path / "out")
    assert set(_files(tmp_path / "out")) == {"llm/model.safetensors"}


def test_a_place_with_nothing_is_said_and_leaves_what_was_there(kept: Path, tmp_path: Path) -> None:
    fetch(kept.as_uri(), tmp_path / "out")
    with pytest.raises(NotFoundError, match="nothing is there"):
        fetch(f"{kept.as_uri()}-other", tmp_path / "out")
    assert _files(tmp_path / "out") == _files(kept)


@pytest.mark.parametrize("source", ["/a/path", "https://example.org/weights", "s3://bucket", "s3://bucket/"])
def test_what_is_no_place_of_weights_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a place of weights"):
        fetch(source, tmp_path / "out")


def test_a_registered_version_comes_from_where_training_left_it(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("VILAM3_RUNS", str(tmp_path / "runs"))
    tracking = connect(experiment="vilam3", registered_model="tiny", runs=tmp_path / "runs")
    made = tracking.register(
        Checkpoint(name="tiny", step=1, source=kept.as_uri(), digest="0" * 64, tags={}, metrics={})
    )
    tracking.promote(made.number, expected_champion=None)
    assert main(["model", "fetch", "--source", "models:/tiny@champion", "--out", str(tmp_path / "out")]) == 0
    assert _files(tmp_path / "out") == _files(kept)
    assert "0.000 GB from models:/tiny@champion" in capsys.readouterr().out

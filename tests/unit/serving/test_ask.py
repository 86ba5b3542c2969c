"""`vilam3 ask` without a server: what is printed, what is saved, what is refused."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import pytest
from PIL import Image

from tests.unit.serving.fakes import RuleEngine, SlowExperts
from vilam3 import consultant
from vilam3.cli import ask
from vilam3.consultant import Consultant
from vilam3.errors import CheckpointError, DataError, UserError


def run(words: Sequence[str]) -> int:
    """Parse and run, as the program does."""
    parser = argparse.ArgumentParser()
    ask.register(parser.add_subparsers())
    arguments = parser.parse_args(["ask", *words])
    return int(arguments.run(arguments))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, Path | None]]:
    """Stands for the loading of real weights; records what was asked for."""
    asked: list[tuple[str, Path | None]] = []

    def load(model: str, *, experts: Path | None = None) -> Consultant:
        asked.append((model, experts))
        return Consultant(engine=RuleEngine(), experts=SlowExperts(), model_digest="d")

    monkeypatch.setattr(consultant, "load", load)
    monkeypatch.chdir(tmp_path)
    return asked


def test_the_conversation_is_printed_and_the_pictures_saved(
    loaded: list[tuple[str, Path | None]], tmp_path: Path, volume: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("ct.nii.gz").write_bytes(volume)
    for folder in ("model", "experts"):
        (tmp_path / "runs" / "latest" / folder).mkdir(parents=True)
    assert run(["--image", "ct.nii.gz", "--slice", "2", "--out", "found", "Is there a hepatic tumor?"]) == 0
    printed = capsys.readouterr().out
    for said in (
        "CT, 6 slices, slice 2",
        "VISTA3D (hepatic tumor)",
        "1.5 ml",
        "answer    yes",
        "Draft for a clinician",
    ):
        assert said in printed
    assert loaded == [("runs/latest/model", Path("runs/latest/experts"))]
    with Image.open("found/overlay-0.png") as overlay:
        assert overlay.size == (32, 32)
    assert nib.load("found/mask-0.nii.gz").shape == (8, 9, 6)
    answer = json.loads(Path("found/answer.json").read_text())
    assert answer["expert_calls"][0]["overlay_url"] == "found/overlay-0.png"


def test_four_files_are_one_study(
    loaded: list[tuple[str, Path | None]], volume: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    words = []
    for sequence in ("flair", "t1", "t1c", "t2"):
        Path(f"{sequence}.nii.gz").write_bytes(volume)
        words += ["--image", f"{sequence}.nii.gz"]
    assert run([*words, "--model", "m", "--no-experts", "What is it?"]) == 0
    assert "MRI, 6 slices" in capsys.readouterr().out
    assert loaded == [("m", None)]


def test_what_cannot_be_asked_is_refused(loaded: list[tuple[str, Path | None]]) -> None:
    with pytest.raises(UserError, match="make demo"):
        run(["hello"])
    with pytest.raises(UserError, match="one of the two"):
        run(["--server", "http://127.0.0.1:1", "--model", "m", "hello"])
    with pytest.raises(UserError, match="not an HTTP address"):
        run(["--server", "localhost:8080", "hello"])
    with pytest.raises(DataError, match="no such file"):
        run(["--model", "m", "--image", "none.dcm", "hello"])
    assert loaded == []


@pytest.mark.parametrize("model", ["models:/x", "models:/x@", "models:/x/y", "nowhere"])
def test_a_model_that_is_nowhere_is_named(model: str) -> None:
    with pytest.raises(CheckpointError, match=model):
        consultant.resolve(model)

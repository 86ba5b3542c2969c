"""`vilam3 ask` without a server: what is printed, what is saved, what is refused."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.unit.data import dicom_files as make
from tests.unit.serving.fakes import RuleEngine, SlowExperts
from tests.unit.sources.hostile import hostile_server
from vilam3 import consultant
from vilam3.cli import ask
from vilam3.consultant import Consultant
from vilam3.errors import CheckpointError, DataError, UserError
from vilam3.sources.pacs import URL_VARIABLE
from vilam3.sources.permits import HOSTS_VARIABLE, NETWORKS_VARIABLE


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


def test_a_task_reaches_the_model_and_the_record(
    loaded: list[tuple[str, Path | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = RuleEngine()
    monkeypatch.setattr(consultant, "load", lambda *_, **__: Consultant(engine=engine))
    assert run(["--model", "m", "--task", "report", "What is it?"]) == 0
    assert [sampling.task for sampling in engine.samplings] == ["report"]
    assert json.loads(Path("answer/answer.json").read_text())["provenance"]["task"] == "report"
    assert loaded == []


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


def test_a_dicom_series_gives_a_segmentation_and_a_report(loaded: list[tuple[str, Path | None]]) -> None:
    """And the slice that is shown is the fullest, where the question is about the volume."""
    voxels_KHW = np.arange(6 * 9 * 8, dtype=np.int16).reshape(6, 9, 8)
    make.series(Path("scan"), voxels_KHW, tags={"StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.9"})
    assert run(["--image", "scan", "--model", "m", "--scope", "volume", "Is there a hepatic tumor?"]) == 0
    found = hd.seg.segread("answer/segmentation-0.dcm")
    assert [segment.SegmentLabel for segment in found.SegmentSequence][-1] == "hepatic tumor"
    report = json.loads(Path("answer/report.json").read_text())
    assert report["findings"][0]["structures"][0]["voxels"] == 8
    assert report["findings"][0]["provenance"]["slice_index"] == 1
    assert report["findings"][0]["files"]["segmentation"] == "answer/segmentation-0.dcm"
    assert not any(secret in Path("answer/report.json").read_text() for secret in make.SECRETS)
    with pytest.raises(UserError, match=URL_VARIABLE):
        run(["--image", "scan", "--model", "m", "--stow", "Is there a hepatic tumor?"])
    with pytest.raises(UserError, match="no slice"):
        run(["--image", "scan", "--model", "m", "--scope", "volume", "--slice", "1", "hello"])
    assert loaded


def test_images_elsewhere_need_a_permit(loaded: list[tuple[str, Path | None]], monkeypatch: pytest.MonkeyPatch) -> None:
    with hostile_server() as port:
        url = f"http://127.0.0.1:{port}/scan"
        with pytest.raises(DataError, match=HOSTS_VARIABLE):
            run(["--image", url, "--model", "m", "hello"])
        monkeypatch.setenv(HOSTS_VARIABLE, f"127.0.0.1:{port}")
        monkeypatch.setenv(NETWORKS_VARIABLE, "127.0.0.0/8")
        with pytest.raises(DataError, match="PNG or JPEG"):  # it came, and is no picture
            run(["--image", url, "--model", "m", "hello"])
        with pytest.raises(DataError, match="some are here"):
            run(["--image", url, "--image", "ct.nii.gz", "--model", "m", "hello"])
    assert loaded == []

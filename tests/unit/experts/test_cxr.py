"""The chest x-ray ensemble: its arithmetic, its weight files and the expert around it."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vilam3.data.study import Study
from vilam3.errors import CheckpointError, ExpertError, NotFoundError
from vilam3.experts import cxr
from vilam3.experts.cxr_ensemble import Ensemble, Plan, normalise, prepare, read_plan, resize
from vilam3.experts.cxr_network import DenseNet, build_network
from vilam3.experts.cxr_weights import read_state
from vilam3.experts.facts import published_ensemble

LABELS = ("Atelectasis", "Pneumothorax", "Mass")
SMALL: dict[str, Any] = {"kind": "densenet", "growth_rate": 2, "block_config": [1, 1], "num_init_features": 4}


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.floats(0.0005, 0.9995))
def test_the_operating_point_becomes_one_half(probability: float, threshold: float) -> None:
    """p/(2t) below, 1-(1-p)/(2(1-t)) from there on; monotone from 0 to 1."""
    expected = probability / (2 * threshold) if probability < threshold else 1 - (1 - probability) / (2 - 2 * threshold)
    thresholds = torch.tensor([threshold], dtype=torch.float64)
    got = normalise(torch.tensor([[probability]], dtype=torch.float64), thresholds).item()
    assert got == pytest.approx(expected)
    assert normalise(thresholds[None], thresholds).item() == pytest.approx(0.5)
    assert (got >= 0.5) == (probability >= threshold) or got == pytest.approx(0.5)


def test_a_label_that_a_member_lacks_is_one_half() -> None:
    got = normalise(torch.tensor([[0.0, 0.9]]), torch.tensor([float("nan"), 0.5]))
    assert got[0].tolist() == pytest.approx([0.5, 0.9])


def constant(probabilities: tuple[float, ...]) -> DenseNet:
    """A network that answers the same whatever it is shown."""
    network = DenseNet(num_labels=3, growth_rate=2, block_config=(1, 1), num_init_features=4)
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.bias.copy_(torch.logit(torch.tensor(probabilities)))
    return network


def member(name: str, thresholds: list[float | None]) -> dict[str, Any]:
    return {"name": name, "file": f"{name}.pt", "architecture": SMALL, "size_px": 32, "thresholds": thresholds}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two members: the second lacks the last label; Pneumothorax is the second's alone."""
    root = tmp_path / "cxr"
    root.mkdir()
    torch.save(constant((0.2, 0.9, 0.6)).state_dict(), root / "one.pt")
    torch.save({"model": constant((0.6, 0.1, 0.3)).state_dict()}, root / "two.pt")
    plan = {
        "version": "7",
        "labels": LABELS,
        "restricted": {"Pneumothorax": ["two"]},
        "members": [member("one", [0.5, 0.5, 0.5]), member("two", [0.5, 0.5, None])],
    }
    (root / "ensemble.json").write_text(json.dumps(plan))
    return root


def radiograph(value: int = 100) -> Study:
    return Study(digest="d", modality="CXR", radiograph_HW=np.full((40, 32), value, dtype=np.uint8))


def test_members_are_averaged_but_for_restricted_labels(folder: Path) -> None:
    """A member that lacks a label says 0.5 and counts, as published."""
    scores = Ensemble(folder, read_plan(folder)).score(np.zeros((40, 32), dtype=np.uint8))
    assert scores == pytest.approx({"Atelectasis": 0.4, "Pneumothorax": 0.1, "Mass": 0.55}, abs=1e-5)


def test_the_expert_tells_its_findings_and_where_they_come_from(folder: Path) -> None:
    expert = cxr.create(folder.parent, dialect="demo")
    result = expert.run(radiograph(), "ignored")
    assert result.text == "The resulting predictions are:\natelectasis: no\nmass: yes\npneumothorax: no\n."
    assert result.overlay is None
    assert result.scores["Mass"] == pytest.approx(0.55, abs=1e-5)
    assert (result.provenance.expert, result.provenance.version) == ("CXR", "7")
    assert len(result.provenance.weights_digest) == 64
    again = expert.run(Study(digest="d", modality="CXR", radiograph_HW=np.zeros((40, 32), dtype=np.uint16)))
    assert again.scores == pytest.approx(result.scores)


def test_other_studies_are_refused(folder: Path) -> None:
    with pytest.raises(ExpertError, match=r"CXR reads chest radiographs, but this study is CT"):
        cxr.create(folder.parent).run(Study(digest="d", modality="CT"))


def test_pixels_are_cropped_in_the_middle_and_span_1024() -> None:
    grey_HW = np.zeros((4, 8), dtype=np.uint8)
    grey_HW[:, 2:6] = 255
    pixels_NCHW = prepare(grey_HW)
    assert pixels_NCHW.shape == (1, 1, 4, 4)
    assert np.unique(pixels_NCHW.numpy()).tolist() == [1024.0]
    assert resize(pixels_NCHW, 2).shape == (1, 1, 2, 2)


def test_shrinking_antialiases() -> None:
    """As torchxrayvision 1.5.7: a line one pixel wide does not vanish between samples."""
    pixels_NCHW = torch.zeros(1, 1, 64, 64)
    pixels_NCHW[..., 31] = 1024.0
    assert resize(pixels_NCHW, 16).sum() / 16**2 == pytest.approx(1024 / 64, rel=0.05)


def test_without_a_plan_the_published_ensemble_is_meant(tmp_path: Path) -> None:
    (tmp_path / "cxr").mkdir()
    expert = cxr.create(tmp_path)
    assert [m.name for m in expert.plan.members][-1] == "resnet50-res512-all"
    with pytest.raises(CheckpointError, match=r"densenet121.*: no such file; download it"):
        expert.run(radiograph())
    with pytest.raises(NotFoundError, match="no such directory"):
        cxr.create(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        ({"members": []}, "restricted names no label or no member"),
        ({"labels": ["Mass"]}, "3 thresholds for 1 labels"),
        ({"colour": "grey"}, "colour"),
        ({"members": [member("../one", [0.5, 0.5, 0.5])]}, "file"),
    ],
)
def test_a_plan_that_does_not_hold_together_is_refused(folder: Path, change: dict[str, Any], saying: str) -> None:
    path = folder / "ensemble.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=saying):
        read_plan(folder)


def test_weights_that_do_not_fit_are_named(folder: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), folder / "one.pt")
    with pytest.raises(CheckpointError, match=r"one.pt: they do not fit one"):
        Ensemble(folder, read_plan(folder))


def test_published_networks_have_the_published_shapes() -> None:
    plan = Plan.model_validate(published_ensemble())
    network = build_network(plan.members[0].architecture, num_labels=len(plan.labels))
    state = network.state_dict()
    assert state["features.denseblock3.denselayer24.conv2.weight"].shape == (32, 128, 3, 3)
    assert state["classifier.weight"].shape == (18, 1024)
    assert sum(value.numel() for value in network.parameters()) == 6_966_034


@pytest.mark.parametrize("zipped", [True, False])
def test_whole_modules_of_the_library_are_read_as_tensors(tmp_path: Path, zipped: bool) -> None:
    """Published files are pickled modules from before torch's zip format; both formats give the state alone."""
    network = constant((0.1, 0.2, 0.3))
    path = tmp_path / "module.pt"
    torch.save(network, path, _use_new_zipfile_serialization=zipped)
    relabel(path, b"vilam3.experts.cxr_network", b"torchxrayvision.models", zipped=zipped)
    state = read_state(path)
    assert set(state) == set(network.state_dict())
    assert torch.equal(state["classifier.bias"], network.classifier.bias)


def relabel(path: Path, old: bytes, new: bytes, *, zipped: bool) -> None:
    """Make a pickle name classes of another module, as if that library had written it."""

    def rename(content: bytes) -> bytes:
        return content.replace(b"c" + old + b"\n", b"c" + new + b"\n")

    if not zipped:
        path.write_bytes(rename(path.read_bytes()))
        return
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(name, rename(content) if name.endswith("data.pkl") else content)


class _Evil:
    def __init__(self, call: Callable[..., Any], *arguments: object) -> None:
        self._reduced = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("content", [_Evil(print, "code ran"), {"a": _Evil(eval, "print('code ran')")}])
def test_weight_files_cannot_run_code(
    tmp_path: Path, zipped: bool, content: object, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evil.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"it names __builtin__\.(print|eval)"):
        read_state(path)
    assert "ran" not in capfd.readouterr().out


def test_scripted_modules_are_refused(tmp_path: Path) -> None:
    """torch.load would hand them to its script interpreter."""
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("archive/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="is a script, not weights"):
        read_state(tmp_path / "script.pt")


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02}q\x00."])
def test_files_that_are_no_weights_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights.pt: not readable as weights"):
        read_state(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="neither a state dict nor a module"):
        read_state(path)

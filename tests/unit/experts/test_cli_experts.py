"""`vilam3 experts`."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vilam3.cli import experts
from vilam3.data.nifti import write_label_map, write_volume
from vilam3.data.study import Volume
from vilam3.errors import DataError


def run(*argv: str) -> None:
    parser = argparse.ArgumentParser()
    experts.register(parser.add_subparsers())
    arguments = parser.parse_args(["experts", *argv])
    arguments.run(arguments)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["<CXR()>"], {"calls": [{"expert": "CXR", "argument": ""}], "error": None}),
        (["<VISTA3D(hepatic tumor)>"], {"calls": [{"expert": "VISTA3D", "argument": "hepatic tumor"}], "error": None}),
        (["<CXR()> <BRATS()>"], {"calls": [], "error": None}),
        (["yes"], {"calls": [], "error": None}),
        (
            ["<CXR()> <BRATS()>", "--several"],
            {"calls": [{"expert": "CXR", "argument": ""}, {"expert": "BRATS", "argument": ""}], "error": None},
        ),
    ],
)
def test_parse_prints_the_calls(
    argv: list[str], expected: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    run("parse", *argv)
    assert json.loads(capsys.readouterr().out) == expected


def test_parse_tells_what_is_wrong_with_a_trigger(capsys: pytest.CaptureFixture[str]) -> None:
    """The parse itself worked, so this is no failure of the command."""
    run("parse", "<VISTA3D(nose)>")
    parsed = json.loads(capsys.readouterr().out)
    assert parsed["calls"] == []
    assert "'nose'; valid are 'everything'" in parsed["error"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    voxels_XYZ = np.linspace(-300, 300, 6 * 5 * 4).reshape(6, 5, 4).round().astype(np.float32)
    volume = Volume(voxels_XYZ=voxels_XYZ, affine_RAS=np.diag([2.0, 2.0, 5.0, 1.0]), stored_axes="LPS")
    ids_XYZ = np.zeros((6, 5, 4), dtype=np.uint8)
    ids_XYZ[4:, 3:, 1] = 1
    ids_XYZ[5, 4, 1] = 4
    write_volume(tmp_path / "image.nii.gz", volume)
    write_label_map(tmp_path / "mask.nii.gz", ids_XYZ, like=volume)
    write_label_map(
        tmp_path / "small.nii.gz", ids_XYZ[:3], like=Volume(voxels_XYZ=voxels_XYZ[:3], affine_RAS=volume.affine_RAS)
    )
    return {
        "image": str(tmp_path / "image.nii.gz"),
        "mask": str(tmp_path / "mask.nii.gz"),
        "small": str(tmp_path / "small.nii.gz"),
    }


@pytest.mark.parametrize(
    ("expert", "text"),
    [
        ("VISTA3D", "The results are <image>. The colors in this image describe red: liver, blue: pancreas. "),
        (
            "BRATS",
            (
                "The results are <image>. The colors in this image describe\n"
                "red and blue: tumor core, only blue: enhancing tumor, all colors: whole tumor\n"
            ),
        ),
    ],
)
def test_overlay_writes_slice_picture_and_text(files: dict[str, str], tmp_path: Path, expert: str, text: str) -> None:
    out = tmp_path / "out"
    run(
        "overlay",
        "--expert",
        expert,
        "--image",
        files["image"],
        "--mask",
        files["mask"],
        "--slice",
        "1",
        "--out",
        str(out),
    )
    assert (out / "text.txt").read_bytes().decode() == text
    with Image.open(out / "slice.png") as slice_picture, Image.open(out / "overlay.png") as overlay:
        grey_HWC, painted_HWC = np.asarray(slice_picture).astype(int), np.asarray(overlay).astype(int)
    assert grey_HWC.shape == painted_HWC.shape == (5, 6, 3)
    assert painted_HWC[0, 0, 2] > painted_HWC[0, 0, 0]  # blue at the front right
    assert np.abs(painted_HWC[4, 5] - 0.7 * grey_HWC[4, 5]).max() <= 1


def test_overlay_refuses_a_mask_of_another_grid(files: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"small.nii.gz: its grid \(3, 5, 4\) is not that of the image \(6, 5, 4\)"):
        run("overlay", "--expert", "VISTA3D", "--image", files["image"], "--mask", files["small"], "--out", str(out))
    with pytest.raises(DataError, match=r"none.nii.gz: no such file"):
        run("overlay", "--expert", "VISTA3D", "--image", "none.nii.gz", "--mask", files["mask"], "--out", str(out))
    assert not out.exists()


@pytest.mark.parametrize("action", ["list", "run", "parse", "overlay", "fit"])
def test_every_action_explains_itself_with_an_example(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(action, "--help")
    assert stop.value.code == 0
    assert f"vilam3 experts {action}" in capsys.readouterr().out

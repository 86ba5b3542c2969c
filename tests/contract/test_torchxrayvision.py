"""Our chest x-ray ensemble against the library whose weights it loads."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vilam3.experts.cxr_ensemble import normalise, prepare, resize
from vilam3.experts.cxr_network import DenseNet
from vilam3.experts.cxr_weights import read_state
from vilam3.experts.facts import published_ensemble

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its imports warn, and it switches warnings off for the whole process
    xrv = pytest.importorskip("torchxrayvision")

SHAPE: dict[str, Any] = {"growth_rate": 4, "block_config": (2, 3), "num_init_features": 8}


def test_facts_are_those_of_the_library() -> None:
    ensemble = published_ensemble()
    assert ensemble["labels"] == list(xrv.datasets.default_pathologies)
    for member in ensemble["members"]:
        known = xrv.models.model_urls[member["name"]]
        assert member["file"] == Path(known["weights_url"]).name
        assert member["size_px"] == known["input_resolution"]
        thresholds = [math.nan if value is None else value for value in member["thresholds"]]
        assert thresholds == pytest.approx(known["op_threshs"], abs=0, nan_ok=True)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_module_of_the_library_gives_the_same_scores_here(
    tmp_path: Path, zipped: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """From its pickled module, in both of torch's formats, through crop, resize, network and normalisation."""
    torch.manual_seed(0)
    thresholds = torch.rand(18).where(torch.arange(18) != 2, torch.nan)
    theirs = xrv.models.DenseNet(**SHAPE, num_classes=18, op_threshs=thresholds).eval()
    theirs.input_resolution = 48
    with torch.no_grad():
        for buffer in theirs.buffers():
            if buffer.is_floating_point() and buffer is not theirs.op_threshs:
                buffer.uniform_(0.5, 1.5)
    theirs.op_threshs, kept = None, theirs.op_threshs
    torch.save(theirs, tmp_path / "module.pt", _use_new_zipfile_serialization=zipped)
    theirs.op_threshs = kept
    ours = DenseNet(num_labels=18, **SHAPE).eval()
    ours.load_state_dict(read_state(tmp_path / "module.pt"))
    grey_HW = np.random.default_rng(0).integers(0, 256, (100, 70), dtype=np.uint8)
    pixels = xrv.datasets.XRayCenterCrop()(xrv.datasets.normalize(grey_HW, 255)[None])
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(pixels)[None])
        got = normalise(torch.sigmoid(ours(resize(prepare(grey_HW), 48))), thresholds)
    capsys.readouterr()  # the library prints that it resizes
    assert torch.allclose(got, expected, atol=1e-6)
    assert got[0, 2] == 0.5

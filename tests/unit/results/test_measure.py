"""Measurements are in the units they say, on grids that are not cubes."""

import numpy as np
import pytest

from vilam3.experts.protocol import LabelMap
from vilam3.results.measure import fullest_slice, structures
from vilam3.results.report import report

AFFINE = np.diag([2.0, 3.0, 5.0, 1.0])


def mask() -> LabelMap:
    """A liver of 4 x 3 x 2 voxels, and a tumour in another slice that holds less of it."""
    ids_XYZ = np.zeros((10, 9, 8), np.uint8)
    ids_XYZ[1:5, 2:5, 3:5] = 1
    ids_XYZ[7, 7, 6] = 26
    ids_XYZ[7:9, 7, 7] = 26
    return LabelMap(ids_XYZ=ids_XYZ, affine_RAS=AFFINE, names={1: "liver", 26: "hepatic tumor"})


def test_a_box_is_measured_exactly() -> None:
    liver, tumor = structures(mask())
    assert (liver.label, liver.voxels, liver.fullest_slice) == ("liver", 24, 3)
    assert liver.volume_ml == pytest.approx(24 * 30 / 1000)
    assert liver.extent_mm == (8.0, 9.0, 10.0)
    assert liver.area_mm2 == 12 * 6.0
    assert liver.longest_mm == pytest.approx(np.hypot(3 * 2.0, 2 * 3.0), abs=1e-3)
    assert (tumor.voxels, tumor.fullest_slice, tumor.longest_mm) == (3, 7, 2.0)


def test_lengths_of_a_sheared_grid_follow_its_axes() -> None:
    sheared = AFFINE.copy()
    sheared[0, 1] = 3.0  # the second axis leans over the first: 45 degrees
    liver, _ = structures(LabelMap(ids_XYZ=mask().ids_XYZ, affine_RAS=sheared, names={}))
    assert liver.extent_mm[1] == pytest.approx(3 * np.sqrt(18.0), abs=1e-3)
    assert liver.longest_mm == pytest.approx(np.hypot(3 * 2.0 + 2 * 3.0, 2 * 3.0), abs=1e-3)
    assert liver.label == "label 1"


def test_the_slice_shown_is_that_of_what_was_asked() -> None:
    """A tumour is asked for with its organ, which is larger."""
    assert fullest_slice(mask(), asked="hepatic tumor") == 7
    assert fullest_slice(mask(), asked="everything") == 3
    empty = LabelMap(ids_XYZ=np.zeros((2, 2, 2), np.uint8), affine_RAS=AFFINE, names={})
    assert fullest_slice(empty, asked="hepatic tumor") is None


def test_a_report_has_the_units_and_no_patient() -> None:
    call = {"expert": "VISTA3D", "argument": "hepatic tumor", "mask_url": "mask-0.nii.gz", "overlay_url": None}
    answer = {
        "id": "chatcmpl-1", "created": 1, "answer": "yes", "notes": [], "warnings": [], "notice": "Draft",
        "provenance": {"series": "series-1"}, "expert_calls": [call, {"expert": "CXR", "argument": ""}],
    }  # fmt: skip
    made = report(answer, {0: mask()})
    assert (made["status"], made["units"]["volume_ml"], made["answer"]) == ("draft", "ml", "yes")
    assert [found["label"] for found in made["findings"][0]["structures"]] == ["liver", "hepatic tumor"]
    assert made["findings"][0]["files"] == {"mask": "mask-0.nii.gz"}
    assert made["findings"][1]["structures"] == []

"""Overlays, their colours and the words that go with them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ImageColor

from vilam3.data.study import Study, Volume
from vilam3.dialogue.prompts import follow_up
from vilam3.errors import DataError
from vilam3.experts.facts import PALETTE, published_ensemble
from vilam3.experts.findings import Origin, brats_result, cxr_result, vista3d_result, volumes_ml
from vilam3.experts.overlay import blend_HWC, colors_by_rank, draw, legend
from vilam3.experts.wording import brats_text, cxr_text, vista3d_text

ORIGIN = Origin(expert="VISTA3D", version="1", weights_digest="0" * 64, argument="hepatic tumor")


def volume(shape: tuple[int, int, int] = (6, 5, 4)) -> Volume:
    voxels_XYZ = np.linspace(-200, 300, np.prod(shape)).reshape(shape).astype(np.float32)
    return Volume(voxels_XYZ=voxels_XYZ, affine_RAS=np.diag([-2.0, 2.0, 5.0, 1.0]))


def ids(values: dict[tuple[int, int, int], int], shape: tuple[int, int, int] = (6, 5, 4)) -> NDArray[np.uint8]:
    ids_XYZ = np.zeros(shape, dtype=np.uint8)
    for place, label_id in values.items():
        ids_XYZ[place] = label_id
    return ids_XYZ


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(1, 132), max_size=25), st.integers(0, 2**31))
def test_colors_follow_rank_and_alpha_is_three_tenths(present: set[int], seed: int) -> None:
    """Held against the blending written out; unlabelled pixels keep 70 %, whether there are labels or not."""
    rng = np.random.default_rng(seed)
    choices = np.array([0, *sorted(present)], dtype=np.uint8)
    ids_HW = rng.choice(choices, (12, 13))
    grey_HW = rng.integers(0, 256, (12, 13), dtype=np.uint8)
    colors = colors_by_rank(ids_HW)
    assert list(colors) == sorted(set(ids_HW.ravel().tolist()) - {0})
    assert list(colors.values()) == [PALETTE[rank % 16] for rank in range(len(colors))]
    paint = np.zeros((256, 3))
    for label_id, color in colors.items():
        paint[label_id] = np.array(ImageColor.getrgb(color)) / 255
    expected = (0.3 * paint[ids_HW] + 0.7 * grey_HW[..., None] / 255) * 255
    assert np.abs(blend_HWC(grey_HW, ids_HW) - np.floor(expected + 1e-6)).max() <= 1


def test_an_empty_slice_is_dimmed_and_has_an_empty_list() -> None:
    drawing = draw(volume(), ids({}), modality="CT", slice_index=3)
    assert drawing.colors == {}
    pixels_HWC = np.asarray(drawing.picture)
    assert pixels_HWC.shape == (5, 6, 3)
    assert pixels_HWC.max() == int(255 * 0.7)
    assert vista3d_text({}) == "The results are <image>. The colors in this image describe . "


def test_overlay_rows_run_from_anterior_and_columns_from_the_right() -> None:
    """The first row is anterior, the first column the patient's right: the highest index of both RAS axes."""
    pixels_HWC = np.asarray(draw(volume(), ids({(5, 4, 1): 26}), modality="CT", slice_index=1).picture).astype(int)
    redness_HW = pixels_HWC[..., 0] - pixels_HWC[..., 1]
    assert np.argwhere(redness_HW > 0).tolist() == [[0, 0]]


def test_a_slice_that_is_not_there_is_refused() -> None:
    with pytest.raises(DataError, match="choose 0 to 3"):
        draw(volume(), ids({}), modality="CT", slice_index=4)


def test_unnamed_labels_take_a_color_but_no_words() -> None:
    colors = colors_by_rank(np.array([0, 1, 16, 26], dtype=np.uint8))
    assert vista3d_text(colors) == (
        "The results are <image>. The colors in this image describe red: liver, yellow: hepatic tumor. "
    )


def test_labels_that_share_a_color_share_the_legend_entry() -> None:
    colors = colors_by_rank(np.arange(18, dtype=np.uint8))
    entries = legend(colors, {1: "liver", 17: "portal vein and splenic vein"})
    assert entries["red"] == "liver, portal vein and splenic vein"
    assert entries["orange"] == "label 11, label 13"


QUESTION = "Is there a hepatic tumor in the image"


def test_ct_message_is_the_published_one() -> None:
    """The second human turn of a detection conversation, in training and in the recorded demo."""
    text = vista3d_text({1: "red", 26: "blue"})
    assert text + follow_up(QUESTION, modality="CT", dialect="training") == (
        "The results are <image>. The colors in this image describe red: liver, blue: hepatic tumor. "
        "Use this result to respond to this prompt:\nIs there a hepatic tumor in the image."
    )
    assert text + follow_up(QUESTION, modality="CT", dialect="demo") == (
        "The results are <image>. The colors in this image describe red: liver, blue: hepatic tumor. "
        "Use this result to respond to this prompt:\nIs there a hepatic tumor in the image"
    )


def test_mri_message_is_the_published_one() -> None:
    colors = colors_by_rank(np.array([1, 2, 4], dtype=np.uint8))
    training = brats_text(colors, dialect="training") + follow_up("Which grade?", modality="MRI", dialect="training")
    assert training == (
        "The results are <image>. The colors in this image describe\nyellow and red: tumor core, only yellow: "
        "enhancing tumor, all colors: whole tumor\nUse this result to respond to this prompt:\nWhich grade?."
    )
    demo = brats_text(colors, dialect="demo") + follow_up("Which grade?", modality="MRI", dialect="demo")
    assert demo == (
        "The results are <image>. The colors in this image describe\nred and yellow: tumor core, only yellow: "
        "enhancing tumor, all colors: whole tumor\nUse this result to respond to this prompt:\nWhich grade?"
    )


@pytest.mark.parametrize(
    ("present", "regions"),
    [
        ([], ""),
        ([1], "all colors: whole tumor\n"),
        ([2], "all colors: whole tumor\n"),
        ([1, 2], "all colors: whole tumor\n"),
        ([4], "only red: enhancing tumor, all colors: whole tumor\n"),
        ([2, 4], "only blue: enhancing tumor, all colors: whole tumor\n"),
        ([1, 4], "red and blue: tumor core, only blue: enhancing tumor, all colors: whole tumor\n"),
    ],
)
def test_brain_regions_that_are_not_in_the_slice_are_not_named(present: list[int], regions: str) -> None:
    colors = colors_by_rank(np.array(present, dtype=np.uint8))
    expected = "The results are <image>. The colors in this image describe\n" + regions
    assert brats_text(colors, dialect="demo") == expected


def test_cxr_message_is_the_published_one() -> None:
    """Training keeps the ensemble's order and says yes above 0.5; the demo sorts and says yes from 0.5 on."""
    scores = dict.fromkeys(published_ensemble()["labels"], 0.2) | {"Pleural_Thickening": 0.5, "Pneumothorax": 0.51}
    training = cxr_text(scores, dialect="training") + follow_up("Normal?", modality="CXR", dialect="training")
    assert training == (
        "The resulting predictions are:\natelectasis: no\nconsolidation: no\ninfiltration: no\nedema: no\n"
        "emphysema: no\nfibrosis: no\neffusion: no\npneumonia: no\npleural thickening: no\ncardiomegaly: no\n"
        "nodule: no\nmass: no\nhernia: no\nlung lesion: no\nfracture: no\nlung opacity: no\n"
        "enlarged cardiomediastinum: no\npneumothorax: yes\n. Analyze the image and take these predictions into "
        "account when responding to this prompt:\nNormal?"
    )
    demo = cxr_text(scores, dialect="demo") + follow_up("Normal?", modality="CXR", dialect="demo")
    assert demo == (
        "The resulting predictions are:\natelectasis: no\ncardiomegaly: no\nconsolidation: no\nedema: no\n"
        "effusion: no\nemphysema: no\nenlarged cardiomediastinum: no\nfibrosis: no\nfracture: no\nhernia: no\n"
        "infiltration: no\nlung lesion: no\nlung opacity: no\nmass: no\nnodule: no\npleural thickening: yes\n"
        "pneumonia: no\npneumothorax: yes\n.Use this result to respond to this prompt:\nNormal?"
    )


def test_volumes_come_from_the_affine_whatever_its_handedness() -> None:
    measured = volumes_ml(ids({(0, 0, 0): 1, (1, 0, 0): 1, (2, 0, 0): 26}), volume().affine_RAS)
    assert measured == pytest.approx({1: 0.04, 26: 0.02})


def test_a_ct_result_carries_all_its_parts() -> None:
    study = Study(digest="d", modality="CT", volumes=(volume(),), series="series-7")
    result = vista3d_result(study, ids({(0, 0, 2): 1, (1, 1, 2): 26, (0, 0, 0): 3}), origin=ORIGIN)
    assert result.text.count("<image>") == 1
    assert result.overlay is not None
    assert result.colors == {"red": "liver", "blue": "hepatic tumor"}
    assert result.mask is not None
    assert result.mask.names == {1: "liver", 3: "spleen", 26: "hepatic tumor"}
    assert [(m.label, m.value, m.unit) for m in result.measurements] == [
        ("liver", 0.02, "ml"),
        ("spleen", 0.02, "ml"),
        ("hepatic tumor", 0.02, "ml"),
    ]
    assert (result.provenance.slice_index, result.provenance.series) == (2, "series-7")


def test_a_brain_result_is_drawn_on_the_first_sequence() -> None:
    bright = volume()
    dark = Volume(voxels_XYZ=np.zeros((6, 5, 4), dtype=np.float32), affine_RAS=bright.affine_RAS)
    study = Study(digest="d", modality="MRI", volumes=(bright, dark, dark, dark))
    result = brats_result(study, ids({(0, 0, 1): 4}), origin=ORIGIN, dialect="demo", slice_index=1)
    assert result.overlay is not None
    assert np.asarray(result.overlay).max() > 0
    assert result.colors == {"red": "enhancing tumor"}


def test_labels_the_weights_never_saw_are_said_to_be_absent_but_not_scored() -> None:
    study = Study(digest="d", modality="CXR", radiograph_HW=np.zeros((4, 4), dtype=np.uint8))
    scores = {"Mass": 0.9, "Hernia": 0.02}
    result = cxr_result(study, scores, origin=ORIGIN, dialect="demo", untrained=("Hernia",))
    assert result.text == "The resulting predictions are:\nhernia: no\nmass: yes\n."
    assert result.scores == {"Mass": 0.9}
    assert result.overlay is None

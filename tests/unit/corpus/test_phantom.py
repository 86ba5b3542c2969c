"""Phantoms are repeatable, lie in the right place and show what their ground truth says."""

import numpy as np
import pytest

from vilam3.corpus.patients import make_patient
from vilam3.data.phantom.ct import HEPATIC_TUMOR, LIVER, SPLEEN, make_ct
from vilam3.data.phantom.cxr import FINDINGS, make_cxr
from vilam3.data.phantom.mri import EDEMA, ENHANCING, make_mri
from vilam3.data.phantom.settings import PhantomSettings
from vilam3.data.render import views

QUIET = PhantomSettings(ct_noise_hu=(1.0, 1.0), mri_noise=(0.01, 0.01), cxr_noise=(1.0, 1.0))


def draws(seed: int) -> list[np.random.Generator]:
    """A dozen generators."""
    return [np.random.default_rng([seed, index]) for index in range(12)]


@pytest.mark.parametrize("kind", ["ct", "mri", "cxr"])
def test_a_patient_follows_from_seed_and_number(kind: str) -> None:
    first, again, other = (make_patient(kind, n, seed=3, settings=QUIET) for n in (4, 4, 5))
    assert first.items == again.items
    assert first.name == f"{kind}-00004"
    pixels = [np.asarray(views(p.study, slice_index=0 if kind == "cxr" else 12)[0]) for p in (first, again, other)]
    np.testing.assert_array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])


def test_liver_is_on_the_right_and_spleen_on_the_left() -> None:
    """RAS: x grows towards the patient's right."""
    phantom = make_ct(np.random.default_rng(1), QUIET)
    middle = phantom.ids_XYZ.shape[0] / 2
    assert np.argwhere(np.isin(phantom.ids_XYZ, (LIVER, HEPATIC_TUMOR)))[:, 0].mean() > middle
    assert np.argwhere(phantom.ids_XYZ == SPLEEN)[:, 0].mean() < middle


def test_ct_tumours_are_darker_than_their_organ_by_the_stated_contrast() -> None:
    checked = 0
    for rng in draws(2):
        phantom = make_ct(rng, QUIET)
        present = "hepatic tumor" in phantom.contrast_hu
        assert present == bool((phantom.ids_XYZ == HEPATIC_TUMOR).any())
        if present:
            voxels = phantom.volume.voxels_XYZ
            gap = voxels[phantom.ids_XYZ == LIVER].mean() - voxels[phantom.ids_XYZ == HEPATIC_TUMOR].mean()
            assert gap == pytest.approx(phantom.contrast_hu["hepatic tumor"], abs=2.0)
            checked += 1
    assert checked > 2


def test_only_high_grade_gliomas_enhance() -> None:
    grades = set()
    for rng in draws(3):
        phantom = make_mri(rng, QUIET)
        grades.add(phantom.grade)
        assert bool((phantom.ids_XYZ == ENHANCING).any()) == (phantom.grade == "high")
        assert bool((phantom.ids_XYZ == EDEMA).any()) == (phantom.grade != "none")
    assert grades == {"none", "lower", "high"}


def test_every_finding_is_there_in_some_radiographs_and_brightens_or_darkens_them() -> None:
    phantoms = [make_cxr(rng, QUIET) for rng in (np.random.default_rng([4, index]) for index in range(60))]
    for name in FINDINGS:
        shown, clear = (
            np.mean([p.grey_HW for p in phantoms if p.findings[name] is there], axis=0) for there in (True, False)
        )
        assert np.abs(shown - clear).max() > 8, name


def test_slices_asked_about_show_what_is_asked() -> None:
    for number in range(6):
        patient = make_patient("ct", number, seed=8, settings=QUIET)
        assert patient.ids_XYZ is not None
        for item in patient.items:
            if item.task == "ct_hepatic_tumor":
                shown = bool((patient.ids_XYZ[:, :, item.slice_index] == HEPATIC_TUMOR).any())
                assert item.answer == ("yes" if shown else "no")

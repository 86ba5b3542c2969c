"""The arithmetic of evaluation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vilam3.evaluate import metrics


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Yes", "yes"),
        ("No, there is none.", "no"),
        ("There is a nodule.", None),
        ("An abnormal finding: yes.", "yes"),
        ("the nose knows", None),
        ("No-contrast phase; yes", "yes"),
        ("", None),
    ],
)
def test_a_yes_or_no_is_a_word(reply: str, said: str | None) -> None:
    """The published scoring takes the "no" of "nodule" for an answer; ours does not."""
    assert metrics.yes_or_no(reply) == said


def test_a_text_is_right_whatever_its_case_blanks_and_full_stop() -> None:
    expected = "the scan indicates lower grade glioma."
    assert metrics.is_right(" The scan  indicates lower grade glioma ", expected=expected)
    assert not metrics.is_right("The scan indicates high grade glioma.", expected=expected)
    assert metrics.is_right("Yes.", expected="yes")
    assert not metrics.is_right("yes or no", expected="no")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["yes", "no", ""]), st.sampled_from(["yes", "no"])), min_size=1))
def test_f1_of_yes_is_the_harmonic_mean_of_precision_and_recall(pairs: list[tuple[str, str]]) -> None:
    said, expected = [one for one, _ in pairs], [other for _, other in pairs]
    hits = sum(one == other == "yes" for one, other in pairs)
    precision = hits / said.count("yes") if "yes" in said else 0.0
    recall = hits / expected.count("yes") if "yes" in expected else 0.0
    harmonic = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert metrics.f1(said, expected) == pytest.approx(harmonic)


def test_f1_of_phrases_is_the_mean_over_the_expected_ones() -> None:
    assert metrics.f1(["low", "low", "high", "other"], ["low", "high", "high", "high"]) == pytest.approx(
        (2 / 3 + 0.5) / 2
    )


def test_the_majority_is_what_a_model_that_never_looks_would_score() -> None:
    assert metrics.majority(["yes", "no", "no", "no"]) == 0.75
    assert metrics.majority([]) == 0.0


def test_the_interval_draws_patients_not_questions() -> None:
    """Ten questions of each patient with one answer carry no more than one question of each."""
    rng = np.random.default_rng(1)
    right = rng.random(40) < 0.7
    names = [f"p{index}" for index in range(40)]
    once = metrics.interval_by_patient(right, names, resamples=2000, seed=7)
    tenfold = metrics.interval_by_patient(np.repeat(right, 10), np.repeat(names, 10).tolist(), resamples=2000, seed=7)
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))
    pretended = [str(index) for index in range(400)]
    narrow = metrics.interval_by_patient(np.repeat(right, 10), pretended, resamples=2000, seed=7)
    assert narrow.high - narrow.low < 0.5 * (once.high - once.low)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Of 200 samples of 60 patients, about 95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(3)
    names = [str(index) for index in range(60)]
    held = 0
    for _ in range(200):
        found = metrics.interval_by_patient(rng.random(60) < 0.7, names, resamples=400, seed=5)
        held += found.low <= 0.7 <= found.high
    assert 0.90 <= held / 200 <= 0.99


def test_the_interval_follows_from_its_seed() -> None:
    values, names = [0.0, 1.0, 1.0, 0.0, 1.0], ["a", "a", "b", "c", "d"]
    one = metrics.interval_by_patient(values, names, resamples=500, seed=1)
    assert metrics.interval_by_patient(values, names, resamples=500, seed=1) == one
    assert metrics.interval_by_patient(values, names, resamples=500, seed=2) != one
    assert metrics.interval_by_patient([], [], resamples=500, seed=2) == metrics.Interval(low=0.0, high=0.0)


def test_confusion_counts_each_pair_with_none_last() -> None:
    found = metrics.confusion(["CXR()", "none", "CXR()"], ["CXR()", "BRATS()", "none"])
    assert found.labels == ("BRATS()", "CXR()", "none")
    assert found.counts == ((0, 0, 0), (0, 1, 1), (1, 0, 0))


def test_a_call_has_one_label() -> None:
    assert metrics.call_label("VISTA3D", "hepatic tumor") == "VISTA3D(hepatic tumor)"
    assert metrics.call_label("CXR") == "CXR()"
    assert metrics.call_label("") == metrics.NONE

"""Splitting is by patient and nobody moves."""

import pytest

from vilam3.data.split import check_disjoint, split_of
from vilam3.errors import DataError

PATIENTS = [f"p{number:04d}" for number in range(4000)]


def test_shares_come_out_as_asked() -> None:
    chosen = [split_of(patient, seed=1, fractions=(0.7, 0.2, 0.1)) for patient in PATIENTS]
    for split, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
        assert chosen.count(split) / len(chosen) == pytest.approx(share, abs=0.03)  # type: ignore[arg-type]  # a loop over literals


def test_the_split_is_fixed_by_seed_and_name_alone() -> None:
    """Written out, so that a change of the hash, which would leak test patients into training, is seen."""
    known = "".join(split_of(patient, seed=7, fractions=(0.5, 0.25, 0.25))[1] for patient in PATIENTS[:12])
    assert known == "rreareeararr"
    assert known != "".join(split_of(patient, seed=8, fractions=(0.5, 0.25, 0.25))[1] for patient in PATIENTS[:12])


def test_a_share_of_zero_gets_nobody() -> None:
    for fractions in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5)):
        present = {split_of(patient, seed=3, fractions=fractions) for patient in PATIENTS[:300]}
        assert len(present) == sum(share > 0 for share in fractions)


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.2, -0.2, 0.0), (0.0, 0.0, 0.0)])
def test_fractions_that_are_no_shares_are_refused(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(DataError, match="add up to 1"):
        split_of("p", seed=0, fractions=fractions)


def test_a_sample_without_patient_cannot_be_split() -> None:
    with pytest.raises(DataError, match="pseudonym"):
        split_of("", seed=0)


def test_a_patient_in_two_splits_is_refused() -> None:
    check_disjoint({"train": ["a", "a", "b"], "validation": ["c"], "test": []})
    with pytest.raises(DataError, match="splits train and test share 2 patients"):
        check_disjoint({"train": ["a", "b", "c"], "validation": ["d"], "test": ["b", "c"]})

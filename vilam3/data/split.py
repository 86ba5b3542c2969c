"""Train, validation and test by patient: decided by a hash, so that new patients move nobody."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

from vilam3.errors import DataError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)
HASH_SPAN = 2**64


def split_of(patient: str, *, seed: int, fractions: tuple[float, float, float] = DEFAULT_FRACTIONS) -> Split:
    """The split of a patient; depends on nothing but the arguments.

    Args:
        patient: Pseudonym.
        seed: Another seed gives another split.
        fractions: Expected shares of train, validation and test; they add up to 1.

    Raises:
        DataError: no patient, or fractions that are no shares.
    """
    if not patient:
        raise DataError("patient: empty; splitting is by patient, so every sample needs a pseudonym")
    if min(fractions) < 0 or abs(sum(fractions) - 1.0) > 1e-9:  # noqa: PLR2004 - rounding of three decimals
        raise DataError(f"fractions={fractions}: must be three shares that add up to 1, such as 0.8, 0.1, 0.1")
    digest = hashlib.sha256(f"{seed}\0{patient}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / HASH_SPAN
    if place < fractions[0]:
        return "train"
    return "validation" if place < fractions[0] + fractions[1] and fractions[1] > 0 else _last(fractions)


def check_disjoint(patients: Mapping[str, Iterable[str]]) -> None:
    """Refuse splits that share a patient.

    Args:
        patients: Pseudonyms by split.

    Raises:
        DataError: names the two splits and counts the patients they share.
    """
    seen: dict[str, str] = {}
    for split, pseudonyms in patients.items():
        shared: dict[str, int] = {}
        for pseudonym in set(pseudonyms):
            other = seen.setdefault(pseudonym, split)
            if other != split:
                shared[other] = shared.get(other, 0) + 1
        if shared:
            other, count = next(iter(shared.items()))
            raise DataError(f"splits {other} and {split} share {count} patients; split by patient, not by sample")


def _last(fractions: tuple[float, float, float]) -> Split:
    """Test; rounding must not put a patient into a split of share 0."""
    if fractions[2] > 0:
        return "test"
    return "validation" if fractions[1] > 0 else "train"

"""Which MR sequence a series or file is, told by its name or how it was acquired, never by its place in a list.

The order of `MR_SEQUENCES` is the one that the prompt and the brain-tumour expert expect.
"""

import re
from collections.abc import Iterable
from typing import TypeVar

MR_SEQUENCES = ("t1c", "t1", "t2", "flair")
Named = TypeVar("Named")

_EDGE = r"(?<![a-z0-9])"
_END = r"(?![a-z0-9])"
_FLAIR = re.compile(rf"flair|dark.?fluid|tirm|{_EDGE}t2f{_END}")
_CONTRAST_T1 = re.compile(rf"{_EDGE}t1[ _.-]*(?:w[ _.-]*)?(?:ce|c|gd|gad|km|post){_END}")
_CONTRAST = re.compile(rf"gadolin|{_EDGE}(?:gd|gad|post|ce|km|contrast|mprc|c\+|\+c|\+gd|\+gad)(?![a-z0-9])")
_NO_CONTRAST = re.compile(rf"{_EDGE}(?:pre|non|no|without|w/o|nativ\w*)(?![a-z0-9])")
_T1 = re.compile(rf"{_EDGE}t1|mp[- _]?rage|spgr|bravo|fspgr")
_T2 = re.compile(rf"{_EDGE}t2(?!\s*[*]|[ _-]?star)")
_OTHER = re.compile(r"t2\s*[*]|t2[ _-]?star|dwi|diff|adc|swi|perf|localizer|scout|survey|dti|map")

SHORT_ECHO_MS = 30.0
LONG_ECHO_MS = 70.0
LONG_REPETITION_MS = 2_000.0
FLUID_NULLING_MS = 1_500.0


def sequence_of_text(text: str, *, contrast_agent: bool = False) -> str:
    """The sequence a description or file name tells of, or empty.

    Args:
        text: A file name without its suffixes, or series description and protocol name.
        contrast_agent: Whether a contrast agent is known to have been given.
    """
    words = text.lower()
    if _FLAIR.search(words) and not re.search(rf"{_EDGE}t1", words):
        return "flair"
    if _OTHER.search(words):
        return ""
    if _CONTRAST_T1.search(words):
        return "t1c"
    if _T1.search(words):
        enhanced = contrast_agent or _CONTRAST.search(words)
        return "t1c" if enhanced and not _NO_CONTRAST.search(words) else "t1"
    return "t2" if _T2.search(words) else ""


def sequence_of_timing(
    *, echo_ms: float | None, repetition_ms: float | None, inversion_ms: float | None, contrast_agent: bool
) -> str:
    """The sequence that echo, repetition and inversion times tell of, or empty where they leave a doubt."""
    if echo_ms is None or repetition_ms is None:
        return ""
    if echo_ms >= LONG_ECHO_MS and repetition_ms >= LONG_REPETITION_MS:
        return "flair" if (inversion_ms or 0.0) >= FLUID_NULLING_MS else "t2"
    nulls_fluid = (inversion_ms or 0.0) >= FLUID_NULLING_MS
    short = repetition_ms < LONG_REPETITION_MS or bool(inversion_ms)
    if 0.0 < echo_ms <= SHORT_ECHO_MS and short and not nulls_fluid:
        return "t1c" if contrast_agent else "t1"
    return ""


def four_of(named: Iterable[tuple[str, Named]]) -> tuple[Named, ...] | None:
    """The items that are t1c, t1, t2 and flair, in that order, or None unless each occurs exactly once."""
    by_name: dict[str, list[Named]] = {}
    for sequence, item in named:
        by_name.setdefault(sequence, []).append(item)
    if all(len(by_name.get(sequence, ())) == 1 for sequence in MR_SEQUENCES):
        return tuple(by_name[sequence][0] for sequence in MR_SEQUENCES)
    return None

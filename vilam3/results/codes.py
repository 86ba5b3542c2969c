"""Which SNOMED CT codes a label name stands for: what a segment is, of which side, and where an abnormality lies."""

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

SNOMED = "SCT"
PRIVATE = "99VILAM3"  # for structures that the dictionary has no code for: the label's own name
LONGEST_VALUE = 16
_TABLES: dict[str, Any] = json.loads((files("vilam3.results") / "data" / "segment_codes.json").read_bytes())
_SIDE = re.compile(r"(left|right) (.+)")
_RIB = re.compile(r"rib \d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A coded concept of DICOM: value, scheme, meaning."""

    value: str
    meaning: str
    scheme: str = SNOMED


ANATOMICAL = Code(value="91723000", meaning="Anatomical Structure")
ABNORMAL = Code(value="49755003", meaning="Morphologically Abnormal Structure")
SIDES = {"left": Code(value="7771000", meaning="Left"), "right": Code(value="24028007", meaning="Right")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """What a segment is.

    Attributes:
        category: Anatomy or abnormality.
        type: Which.
        region: Where an abnormality lies, if the name says so.
        side: Left or right, if the name says so.
    """

    category: Code
    type: Code
    region: Code | None = None
    side: Code | None = None


def property_of(label: str) -> Property:
    """The codes of a label name; a name nobody knows is coded by itself, in a scheme of ours."""
    name = label.lower().strip()
    found = _SIDE.fullmatch(name)
    side, bare = (SIDES[found[1]], found[2]) if found else (None, name)
    bare = "rib" if _RIB.fullmatch(bare) else bare
    if bare in _TABLES["abnormal"]:
        entry = _TABLES["abnormal"][bare]
        return Property(category=ABNORMAL, type=_code(entry["type"]), region=_code(entry["region"]), side=side)
    if bare in _TABLES["anatomical"]:
        return Property(category=ANATOMICAL, type=_code(_TABLES["anatomical"][bare]), side=side)
    return Property(category=ANATOMICAL, type=_private(bare), side=side)


def _code(entry: list[str]) -> Code:
    return Code(value=entry[0], meaning=entry[1])


def _private(name: str) -> Code:
    value = re.sub(r"[^A-Z0-9]+", "-", name.upper()).strip("-")[:LONGEST_VALUE].strip("-") or "UNNAMED"
    return Code(value=value, meaning=name[:64] or "unnamed", scheme=PRIVATE)

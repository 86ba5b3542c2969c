"""An answer with everything measured about it, as plain JSON that other programs read; a draft, and it says so.

It names no patient: the study is a digest of its content, the series a pseudonym.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vilam3.experts.protocol import LabelMap
from vilam3.results.measure import Structure, structures

FORMAT = "vilam3.report/1"
STATUS = "draft"
UNITS = {"volume_ml": "ml", "extent_mm": "mm", "area_mm2": "mm2", "longest_mm": "mm"}  # UCUM
FINDING = ("expert", "argument", "text", "error", "seconds", "colors", "scores", "measurements", "provenance")
FILES = ("overlay_url", "mask_url", "segmentation_url")


def report(answer: Mapping[str, Any], masks: Mapping[int, LabelMap]) -> dict[str, Any]:
    """The report of an answer.

    Args:
        answer: As `vilam3 ask` and the server keep it.
        masks: Segmentations by the number of the expert call, where there is one.
    """
    calls: Sequence[Mapping[str, Any]] = answer["expert_calls"]
    return {
        "format": FORMAT,
        "status": STATUS,
        "answer_id": answer.get("id", ""),
        "created": answer.get("created"),
        "answer": answer["answer"],
        "notes": answer["notes"],
        "warnings": answer["warnings"],
        "notice": answer["notice"],
        "provenance": answer["provenance"],
        "units": UNITS,
        "findings": [_finding(call, masks.get(number)) for number, call in enumerate(calls)],
    }


def _finding(call: Mapping[str, Any], mask: LabelMap | None) -> dict[str, Any]:
    return {
        **{name: call.get(name) for name in FINDING},
        "files": {name.removesuffix("_url"): call[name] for name in FILES if call.get(name)},
        "structures": [] if mask is None else [_structure(found) for found in structures(mask)],
    }


def _structure(found: Structure) -> dict[str, Any]:
    return {**asdict(found), "extent_mm": list(found.extent_mm)}

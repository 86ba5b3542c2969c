"""The published facts of the expert protocol, read from data files that stand beside a list of their sources.

Nothing here needs an expert to be installed, so a corpus and a parser can be built without weights.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

DATA = files("vilam3.experts") / "data"
CARD_OF = {"BRATS": 1, "VISTA3D": 2, "VISTA2D": 3, "CXR": 4}  # line of the published cards


def _text(name: str) -> str:
    return (DATA / name).read_bytes().decode("utf-8")  # bytes: no newline translation


def _json(name: str) -> Any:  # noqa: ANN401 - each file has its own shape
    return json.loads(_text(name))


def _by_id(names: Mapping[str, str]) -> dict[int, str]:
    return {int(label_id): name for label_id, name in names.items()}


CARDS: str = _text("model_cards.txt")
"""The published model cards: header, one line for each expert, footer."""

PALETTE: tuple[str, ...] = tuple(_json("palette.json"))
"""Colour names in the order they are given out."""

GROUPS: Mapping[str, Mapping[int, str]] = {name: _by_id(labels) for name, labels in _json("label_groups.json").items()}
"""VISTA3D argument to the label ids it asks for, with their names; `everything` asks without naming ids."""

LABELS: Mapping[int, str] = _by_id(_json("vista3d_labels.json"))
"""Names of the VISTA3D label ids 1 to 132."""

NAMED: Mapping[int, str] = {label_id: name for group in GROUPS.values() for label_id, name in group.items()}
"""Names of the label ids that the text to the language model spells out; the others only take up a colour."""

BRATS_LABELS: Mapping[int, str] = {1: "non-enhancing tumor core", 2: "edema", 4: "enhancing tumor"}
"""Names of the BRATS label ids, for readers; the text to the language model names the nested regions instead."""

ARGUMENTS: Mapping[str, tuple[str, ...]] = {"CXR": (), "VISTA3D": tuple(GROUPS), "BRATS": ()}
"""Valid arguments of the published experts, as `vilam3.experts.trigger.Grammar` takes them."""


def card(expert: str) -> str:
    """The published card of one expert, newline included.

    Args:
        expert: ``BRATS``, ``VISTA3D``, ``VISTA2D`` or ``CXR``.
    """
    return CARDS.splitlines(keepends=True)[CARD_OF[expert]]


def cards(added: tuple[str, ...] = ()) -> str:
    """The cards that open a question: the published text, with further cards before its last line.

    The published lines are always all there, because they are one string to published weights; an expert that is not
    at hand says so when it is called.

    Args:
        added: Cards of other experts, one line each.
    """
    *published, footer = CARDS.splitlines(keepends=True)
    return "".join([*published, *(line.rstrip("\n") + "\n" for line in added), footer])


def published_ensemble() -> dict[str, Any]:
    """The published chest x-ray ensemble, as `vilam3.experts.cxr_ensemble.Plan` reads it."""
    ensemble: dict[str, Any] = _json("cxr_ensemble.json")
    return ensemble

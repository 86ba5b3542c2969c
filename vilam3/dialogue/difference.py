"""Two answers to one question, side by side: what they were made with, and where they differ."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = "-"
TELLING = ("answer", "ending")  # with the experts' calls: where these are the same, so is the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One property of both answers.

    Attributes:
        what: Its name.
        then: Of the kept answer.
        now: Of the new one.
        counts: Whether another value makes it another answer; else it only says what it was made with.
    """

    what: str
    then: str
    now: str
    counts: bool = False

    @property
    def is_same(self) -> bool:
        """Whether both are equal."""
        return self.then == self.now


def compare(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Row]:
    """The rows of two answers as the endpoint gives them.

    Args:
        then: The kept answer.
        now: The one to the same question, asked again.
    """
    made, making = then.get("provenance") or {}, now.get("provenance") or {}
    rows = [
        _row(what, made.get(what), making.get(what), counts=what in TELLING)
        for what in ("model_digest", "engine", "dialect", "version", "study_digest", "slice_index", "rounds", "ending")
    ]
    rows += _experts(then.get("expert_calls") or [], now.get("expert_calls") or [])
    rows.append(_row("notes", " ".join(then.get("notes", ())), " ".join(now.get("notes", ()))))
    rows.append(_row("answer", then.get("answer"), now.get("answer"), counts=True))
    return rows


def are_same(rows: Sequence[Row]) -> bool:
    """Whether nothing that counts differs."""
    return all(row.is_same for row in rows if row.counts)


def _experts(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    for number in range(max(len(then), len(now))):
        before = then[number] if number < len(then) else {}
        after = now[number] if number < len(now) else {}
        what = f"expert {number + 1}"
        yield _row(what, _called(before), _called(after), counts=True)
        yield _row(f"{what}: model", _model(before), _model(after))
        yield _row(f"{what}: text", before.get("text"), after.get("text"), counts=True)
        yield _row(f"{what}: error", before.get("error"), after.get("error"), counts=True)
        yield _row(f"{what}: measurements", _measured(before), _measured(after), counts=True)


def _called(call: Mapping[str, Any]) -> str | None:
    return f"{call['expert']}({call['argument']})" if call else None


def _model(call: Mapping[str, Any]) -> str | None:
    origin = call.get("provenance") or {}
    return f"{origin['version']} {origin['weights_digest'][:12]}" if origin else None


def _measured(call: Mapping[str, Any]) -> str:
    told = [
        f"{measured['label']} {measured['quantity']} {measured['value']:.6g} {measured['unit']}"
        for measured in call.get("measurements") or ()
    ]
    scores = [f"{label} {score:.4f}" for label, score in sorted((call.get("scores") or {}).items())]
    return ", ".join([*told, *scores])


def _row(what: str, then: object, now: object, *, counts: bool = False) -> Row:
    return Row(what=what, then=_text(then), now=_text(now), counts=counts)


def _text(value: object) -> str:
    return ABSENT if value is None or value == "" else str(value)

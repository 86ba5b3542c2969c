"""JSON lines on stderr: one event a line with its fields; never a patient's identity.

Modules log the ordinary way, ``logging.getLogger(__name__).info("stage finished", extra={"stage": 3})``; a program
calls `setup` once. Numbers that somebody will plot belong in the tracking store, not here.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

WITHHELD = "(withheld)"

# What identifies a person, word by word; compared without case, blanks and punctuation, so that ``PatientName``,
# ``patient_name`` and ``Patient's Name`` are one. Source: DICOM PS3.15 table E.1-1, the patient's and staff's identity.
# A pseudonym is logged as ``pseudonym``: a field named ``patient`` is refused whatever it holds.
IDENTIFIERS = (
    "accession number",
    "birth date",
    "date of birth",
    "institution address",
    "institution name",
    "issuer of patient id",
    "medical record number",
    "mrn",
    "operators name",
    "other patient ids",
    "other patient names",
    "patient",
    "patient address",
    "patient birth date",
    "patient birth name",
    "patient comments",
    "patient id",
    "patient mothers birth name",
    "patient name",
    "patient telephone numbers",
    "performing physician name",
    "referring physician name",
    "requesting physician",
    "study id",
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_NAMES = frozenset(term.replace(" ", "") for term in IDENTIFIERS)
_SPELLINGS = "|".join(term.replace(" ", r"(?:'?s)?[\s_-]*") for term in IDENTIFIERS)
# PatientName=Doe^Jane, "patient_id": "7", Patient's Name: Jane Doe; to the end of the clause.
_PAIR = re.compile(rf"\b((?:{_SPELLINGS})['\"]?\s*[:=]\s*)[^,;)}}\]\n]+", re.IGNORECASE)
_DICOM_ELEMENT = re.compile(r"\((?:0010,\s?[0-9A-Fa-f]{4}|0008,\s?00(?:50|80|81|90))\)[^\n]*")


class Withhold(logging.Filter):
    """Puts `WITHHELD` in place of identifiers: fields by name, ``Keyword=value`` and printed DICOM elements in text."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean `record` in place; it always passes."""
        record.msg, record.args = _clean_text(record.getMessage()), None
        for name in vars(record).keys() - _STANDARD:
            setattr(record, name, _clean(name, getattr(record, name)))
        return True


class JsonLines(logging.Formatter):
    """One JSON object a record: time, level, logger, event and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render `record`; what JSON does not know is written as its text."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = _clean_text(self.formatException(record.exc_info))
        return json.dumps(line, default=lambda value: _clean_text(str(value)), ensure_ascii=False)


def setup(level: str = "INFO", *, rank: int = 0, stream: TextIO | None = None) -> None:
    """Send every logger's records to `stream` (stderr) as JSON lines; calling it again replaces the earlier set-up.

    Args:
        level: Least level written.
        rank: Of this process in distributed training; ranks other than 0 write warnings and errors only.
        stream: Where to write.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(Withhold())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level if rank == 0 else max(logging.WARNING, logging.getLevelNamesMapping()[level]))


def _clean(name: str, value: Any) -> Any:  # noqa: ANN401 - a field may hold anything
    if _identifies(name):
        return WITHHELD
    if isinstance(value, Mapping):
        return {key: _clean(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean("", item) for item in value]
    return value if isinstance(value, bool | int | float | None) else _clean_text(str(value))


def _clean_text(text: str) -> str:
    return _PAIR.sub(rf"\1{WITHHELD}", _DICOM_ELEMENT.sub(WITHHELD, text))


def _identifies(name: str) -> bool:
    letters = re.sub(r"[^a-z]", "", name.lower())
    return letters in _NAMES or letters.replace("patients", "patient") in _NAMES

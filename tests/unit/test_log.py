"""Rules of `vilam3.log`: one JSON line a record, and a planted name does not pass."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from vilam3 import log

PLANTED = "Doe^Jane"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    log.setup("DEBUG", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_record_is_one_json_line_with_its_fields(lines: io.StringIO) -> None:
    logging.getLogger("vilam3.x").info("stage %s\nfinished", 3, extra={"stage": 3, "seconds": 1.5, "ok": True})
    assert lines.getvalue().count("\n") == 1
    line = json.loads(lines.getvalue())
    assert line["event"] == "stage 3\nfinished"
    assert (line["level"], line["logger"], line["stage"], line["seconds"], line["ok"]) == (
        "info",
        "vilam3.x",
        3,
        1.5,
        True,
    )


@pytest.mark.parametrize("field", ["PatientName", "patient_id", "Patient's Name", "AccessionNumber", "mrn", "patient"])
def test_an_identifier_field_is_withheld(lines: io.StringIO, field: str) -> None:
    logging.getLogger("vilam3.x").warning("read", extra={field: PLANTED, "tags": {"nested": [{field: PLANTED}]}})
    assert PLANTED not in lines.getvalue()
    assert json.loads(lines.getvalue())[field] == log.WITHHELD


@pytest.mark.parametrize(
    "text",
    [
        f"PatientName={PLANTED}",
        f"header {{'PatientID': '{PLANTED}', 'Rows': 512}}",
        f"study=4 patient_name: {PLANTED}, rows=3",
        f"Patient's Name: Jane {PLANTED}",
        f"(0010,0010) Patient's Name                      PN: '{PLANTED}'",
        f"(0008,0090) Referring Physician's Name          PN: '{PLANTED}'",
    ],
)
def test_an_identifier_in_text_is_withheld(lines: io.StringIO, text: str) -> None:
    logger = logging.getLogger("vilam3.x")
    logger.info("could not read %s", text, extra={"detail": text, "header": [text]})
    assert PLANTED not in lines.getvalue()


def test_an_identifier_in_an_exception_is_withheld(lines: io.StringIO) -> None:
    try:
        int(f"PatientName={PLANTED}")
    except ValueError:
        logging.getLogger("vilam3.x").exception("reader failed")
    assert "ValueError" in lines.getvalue()
    assert PLANTED not in lines.getvalue()


def test_what_is_not_an_identifier_passes(lines: io.StringIO) -> None:
    logging.getLogger("vilam3.x").info("3 patients: split", extra={"pseudonym": "p-0007", "expert": "BRATS"})
    line = json.loads(lines.getvalue())
    assert (line["event"], line["pseudonym"], line["expert"]) == ("3 patients: split", "p-0007", "BRATS")


def test_other_ranks_write_warnings_only(lines: io.StringIO) -> None:
    log.setup("DEBUG", rank=1, stream=lines)
    logging.getLogger("vilam3.x").info("step")
    logging.getLogger("vilam3.x").error("broken")
    assert [json.loads(line)["event"] for line in lines.getvalue().splitlines()] == ["broken"]

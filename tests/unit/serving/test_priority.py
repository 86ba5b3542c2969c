"""Who goes first, who waits, and who is told to come back."""

import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serving import metrics
from serving.answer import Service
from serving.lanes import Lane, Places
from serving.tenants import Tenants, from_environment
from tests.unit.serving.calls import asked, refused
from vilam3.errors import BusyError, UserError

WARD, EMERGENCY = "ward-key-0123456789abc", "emergency-key-0123456"


def test_urgent_work_goes_before_all_that_waits_and_has_places_of_its_own() -> None:
    lane, release, done = Lane("work", workers=1, waiting=2, urgent=1), threading.Event(), []
    lane.submit(release.wait)
    pieces = [lane.submit(lambda number=number: done.append(number)) for number in (1, 2)]  # type: ignore[misc]  # kept
    with pytest.raises(BusyError):
        lane.submit(lambda: None)
    pieces.append(lane.submit(lambda: done.append("urgent"), is_urgent=True))
    with pytest.raises(BusyError):
        lane.submit(lambda: None, is_urgent=True)
    release.set()
    for piece in pieces:
        piece.result(5)
    assert done == ["urgent", 1, 2]
    lane.close()


def test_what_is_cancelled_while_it_waits_never_runs() -> None:
    lane, release, done = Lane("work", workers=1, waiting=2), threading.Event(), []
    first = lane.submit(release.wait)
    waiting, last = lane.submit(lambda: done.append(1)), lane.submit(lambda: done.append(2))
    waiting.cancel()
    assert lane.in_flight == 2
    release.set()
    first.result(5)
    last.result(5)
    assert done == [2]
    lane.close()


def test_only_a_key_that_may_goes_first(client: TestClient, service: Service) -> None:
    service.tenants = Tenants([WARD], urgent=[EMERGENCY])

    def tier(key: str, **extra: object) -> str:
        headers = {"authorization": f"Bearer {key}"}
        answer = client.post("/v1/chat/completions", json=asked("hello", **extra), headers=headers)
        return str(answer.json()["service_tier"])

    assert tier(EMERGENCY, service_tier="priority") == "priority"
    assert tier(EMERGENCY) == "default"
    assert tier(WARD, service_tier="priority") == "default"


def test_a_key_file_says_who_may_go_first(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{WARD}  # the ward\n{EMERGENCY} urgent # the emergency department\n")
    tenants = from_environment({"VILAM3_API_KEYS_FILE": str(keys)}, host="127.0.0.1")
    named = [tenants.of({"authorization": f"Bearer {key}"}) for key in (WARD, EMERGENCY)]
    assert [tenants.may_go_first(tenant) for tenant in named] == [False, True]
    keys.write_text(f"{WARD} urgently\n")
    with pytest.raises(UserError, match="after a key may stand 'urgent'"):
        from_environment({"VILAM3_API_KEYS_FILE": str(keys)}, host="127.0.0.1")


def test_refusals_are_counted_by_what_was_full(client: TestClient, service: Service) -> None:
    def count(full: str) -> float:
        value: float = metrics.BUSY.labels(full)._value.get()
        return value

    before = count("queue"), count("tenant")
    service.places = Places(0)
    refused(client.post("/v1/chat/completions", json=asked("hello")), 429, "the most for one caller")
    service.places, service.dialogues = Places(1), Lane("dialogues", workers=1, waiting=0)
    release = threading.Event()
    service.dialogues.submit(release.wait)
    refused(client.post("/v1/chat/completions", json=asked("hello")), 429, "try again later")
    release.set()
    assert (count("queue"), count("tenant")) == (before[0] + 1, before[1] + 1)

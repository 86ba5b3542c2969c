"""The stores, lanes, tenants and the event writer, each on its own."""

import asyncio
import io
import json
import threading
import time
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import health, roles
from serving.completion import Answered, ExpertEnded
from serving.expert import ExpertService
from serving.expert import install as install_expert
from serving.lanes import Lane, Places
from serving.presence import gone
from serving.recorder import Progress
from serving.refusals import UnauthorizedError
from serving.stream import HELD_CHARACTERS, Writer
from serving.studies import StudyStore, Upload
from serving.tenants import Tenants, from_environment
from serving.vlm import ModelService
from serving.wire import Usage
from tests.unit.serving.fakes import RuleEngine, SlowExperts
from tests.unit.serving.live import live
from vilam3.dialogue.events import ExpertStarted, ReplyFinished, TextPiece
from vilam3.dialogue.messages import Generation
from vilam3.errors import BusyError, NotFoundError, UserError
from vilam3.experts.protocol import ExpertCall
from vilam3.objects import FolderStore
from vilam3.remote import is_loopback
from vilam3.shelf import Bounds, Shelf, tenant_folder


def test_a_full_lane_refuses_and_names_a_moment() -> None:
    lane, release = Lane("answers", workers=1, waiting=1), threading.Event()
    first = lane.submit(release.wait)
    second = lane.submit(release.wait)
    with pytest.raises(BusyError, match="try again") as refused:
        lane.submit(release.wait)
    assert refused.value.retry_after_s >= 1
    second.cancel()
    assert lane.in_flight == 1
    release.set()
    first.result(5)
    assert asyncio.run(lane.run(lambda: 7)) == 7
    lane.close()


def test_one_tenant_cannot_take_every_place() -> None:
    places = Places(2)
    first = places.take("a")
    places.take("a")
    with pytest.raises(BusyError, match="the most for one caller"):
        places.take("a")
    places.take("b")
    first()
    places.take("a")


def test_a_server_that_ends_or_lacks_a_part_wants_no_requests() -> None:
    app, lacking = FastAPI(), ["the language model has not answered yet"]
    state = health.Health(lambda: lacking[0])
    health.install(app, state)
    with TestClient(app) as client:
        early = client.get("/v2/health/ready")
        assert (early.status_code, early.json()["reason"]) == (503, lacking[0])
        lacking[0] = ""
        assert client.get("/v2/health/ready").json() == {"ready": True}
        state.is_ending = True
        assert client.get("/v2/health/ready").json()["reason"] == "the server is ending"
        assert client.get("/v2/health/live").json() == {"live": True}, "one that ends is not to be restarted"


def test_a_server_whose_engine_has_failed_for_good_asks_to_be_restarted(tmp_path: Path) -> None:
    app, engine = FastAPI(), RuleEngine()
    part = roles.model_part(
        ModelService(engine=engine, digest="d" * 64, dialect="demo", tenants=Tenants()),
        store=FolderStore(tmp_path),
        experts={},
    )
    health.install(app, part.health)
    with TestClient(app) as client:
        assert client.get("/v2/health/live").json() == {"live": True}
        engine.lacking = "engine: it failed"
        for path in ("live", "ready"):
            told = client.get(f"/v2/health/{path}")
            assert (told.status_code, told.json()) == (503, {path: False, "reason": "engine: it failed"})


def test_a_caller_who_leaves_the_queue_of_an_expert_gives_the_place_back(tmp_path: Path) -> None:
    """Over a real connection, through the middleware that tells a handler who is still there."""
    release, app = threading.Event(), FastAPI()
    service = ExpertService(
        name="CXR", opened=lambda _: SlowExperts(), shelf=Shelf(FolderStore(tmp_path)), tenants=Tenants()
    )
    install_expert(app, service)

    @app.post("/work")
    async def work(_: dict[str, str]) -> None:
        await service.begin(lambda _: release.wait()).outcome(gone=gone())

    with live(app) as url, httpx.Client(trust_env=False, timeout=0.5) as client:
        running = service.calls.submit(release.wait)
        with pytest.raises(httpx.ReadTimeout):
            client.post(f"{url}/work", json={})
        end = time.monotonic() + 5
        while service.calls.in_flight > 1:
            assert time.monotonic() < end, "the one who left still waits"
            time.sleep(0.02)
        release.set()
        running.result(5)
    service.close()


def test_the_store_drops_what_was_used_longest_ago(tmp_path: Path, png: bytes) -> None:
    shelf = Shelf(FolderStore(tmp_path / "store"), max_memory_bytes=1)
    store = StudyStore(shelf, bounds=Bounds(max_count=2))
    upload = [Upload(name="../../x y.png", open=lambda: io.BytesIO(png))]
    first, second = store.add("a", upload), store.add("a", upload)
    store.get("a", first.id)
    third = store.add("a", upload)
    assert store.get("a", first.id).digest == store.get("a", third.id).digest
    with pytest.raises(NotFoundError):
        store.info("a", second.id)
    kept = (tmp_path / "store" / tenant_folder("a") / "studies").iterdir()
    assert {folder.name for folder in kept} == {first.id, third.id}
    assert not list(tmp_path.rglob("*.png"))


def test_keys_are_needed_beyond_loopback(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="loopback"):
        from_environment({}, host="0.0.0.0")  # noqa: S104 - refused
    keys = tmp_path / "keys"
    keys.write_text("# ours\nalpha-key-0123456789  # the ward\n\n")
    tenants = from_environment({"VILAM3_API_KEYS_FILE": str(keys)}, host="0.0.0.0")  # noqa: S104 - with keys
    assert tenants.of({"authorization": "bearer alpha-key-0123456789"}) != "local"
    with pytest.raises(UnauthorizedError):
        tenants.of({"authorization": "Bearer ward"})
    for content in ("", "short"):
        keys.write_text(content)
        with pytest.raises(UserError, match="key"):
            from_environment({"VILAM3_API_KEYS_FILE": str(keys)}, host="127.0.0.1")
    with pytest.raises(UserError, match="not readable"):
        from_environment({"VILAM3_API_KEYS_FILE": str(tmp_path / "none")}, host="127.0.0.1")
    assert Tenants().of({}) == "local"
    assert [is_loopback(host) for host in ("localhost", "::1", "10.0.0.1", "host")] == [True, True, False, False]


def answered(text: str, notes: list[str]) -> Answered:
    return Answered(
        answer_id="chatcmpl-0",
        created=0,
        text=text,
        notes=notes,
        finish_reason="stop",
        expert_calls=[],
        usage=Usage(),
        provenance={},
        warnings=[],
    )


def content_of(events: list[Progress], *, holds_back: bool) -> str:
    writer = Writer("chatcmpl-0", 0, holds_back=holds_back)
    lines = [line for event in events for line in writer.lines(event)]
    chunks = [json.loads(line.partition("data: ")[2]) for line in lines]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


def spoken(text: str, round_index: int) -> list[Progress]:
    pieces: list[Progress] = [TextPiece(round_index=round_index, text=piece) for piece in text.split("|")]
    whole = Generation(text=text.replace("|", ""), prompt_tokens=1, completion_tokens=1, finish_reason="stop")
    return [*pieces, ReplyFinished(round_index=round_index, generation=whole)]


@settings(max_examples=50, deadline=None)
@given(
    replies=st.lists(st.text("ab |<>\n", max_size=HELD_CHARACTERS + 40), min_size=1, max_size=3),
    notes=st.lists(st.text(max_size=5), max_size=2),
)
def test_a_stream_ends_with_the_content(replies: list[str], notes: list[str]) -> None:
    """The joined stream ends with the content whatever is said, and is the content where earlier replies were short."""
    events: list[Progress] = []
    for number, reply in enumerate(replies):
        events += spoken(reply, number)
        if number + 1 < len(replies):
            events.append(ExpertStarted(index=number, round_index=number, call=ExpertCall(expert="CXR")))
            events.append(ExpertEnded(index=number, record={"error": None}))
    last = answered(replies[-1].replace("|", ""), notes)
    joined = content_of([*events, last], holds_back=True)
    assert joined.endswith(last.content)
    if all(len(reply) < HELD_CHARACTERS for reply in replies[:-1]):
        assert joined == last.content


def test_without_experts_the_first_word_goes_out_at_once() -> None:
    writer = Writer("chatcmpl-0", 0, holds_back=False)
    (line,) = writer.lines(TextPiece(round_index=0, text="The"))
    assert json.loads(line.partition("data: ")[2])["choices"][0]["delta"] == {"content": "The"}

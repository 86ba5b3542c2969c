"""The engine of another process says what the engine of this one says, to the letter."""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import cast

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from PIL import Image

from serving.lanes import Lane
from serving.tenants import Tenants
from serving.vlm import ModelService, install
from tests.unit.serving.fakes import RuleEngine
from tests.unit.serving.live import free_port, live
from vilam3.dialogue.messages import Engine, Generation, Message, Sampling
from vilam3.errors import DataError, EngineError, UserError
from vilam3.model.checkpoint import Loaded
from vilam3.model.engine import TorchEngine
from vilam3.services.engine import RemoteEngine

HELLO = [Message(role="user", text="an essay")]
GREEDY = Sampling(max_new_tokens=12, min_new_tokens=3)


def application(engine: Engine, *, keys: Sequence[str] = ()) -> FastAPI:
    app = FastAPI()
    install(app, ModelService(engine=engine, digest="e" * 64, dialect="training", tenants=Tenants(keys)))
    return app


@pytest.fixture(scope="module")
def local(loaded: Loaded) -> TorchEngine:
    return TorchEngine(loaded)


@pytest.fixture(scope="module")
def remote(local: TorchEngine) -> Iterator[RemoteEngine]:
    with live(application(local)) as url, RemoteEngine(url, patience_s=2.0) as made:
        yield made


def conversations(pictures: tuple[Image.Image, ...]) -> list[list[Message]]:
    one, *four = pictures
    return [
        [Message(role="user", text="Is there a hepatic tumor? \n naïve ≤ 5 mm")],
        [Message(role="user", text=" <image>This is a CT image.\nyes or no?", images=(one,))],
        [
            Message(role="user", text="T1: <image>, T2: <image>, <image>, FLAIR: <image> these", images=tuple(four)),
            Message(role="assistant", text="I trigger <VISTA3D(hepatic tumor)>"),
            Message(role="expert", text="The results are <image>. ", images=(one,)),
            Message(role="expert", text="Use this result\n"),
        ],
    ]


@pytest.mark.parametrize("number", [0, 1, 2], ids=["no image", "one image", "four images and an overlay"])
def test_greedy_text_and_tokens_are_the_same(
    local: TorchEngine, remote: RemoteEngine, pictures: tuple[Image.Image, ...], number: int
) -> None:
    messages = conversations(pictures)[number]
    *pieces, here = local.stream(messages, GREEDY)
    *sent, there = remote.stream(messages, GREEDY)
    assert isinstance(here, Generation)
    assert isinstance(there, Generation)
    assert (there.text, there.prompt_tokens, there.completion_tokens, there.finish_reason) == (
        here.text,
        here.prompt_tokens,
        here.completion_tokens,
        here.finish_reason,
    )
    assert "".join(str(piece) for piece in sent) == "".join(str(piece) for piece in pieces) == here.text
    assert there.model_digest == "e" * 64


def test_sampling_by_a_seed_is_the_same(
    local: TorchEngine, remote: RemoteEngine, pictures: tuple[Image.Image, ...]
) -> None:
    sampling = Sampling(temperature=1.0, top_p=0.8, max_new_tokens=8, seed=7, system_prompt="Be brief.")
    batch = conversations(pictures)
    here = [local.generate([messages], sampling)[0].text for messages in batch]
    assert [made.text for made in remote.generate(batch, sampling)] == here


def test_the_card_says_how_to_speak_to_it(remote: RemoteEngine) -> None:
    card = remote.card()
    assert (card.digest, card.dialect, card.engine) == ("e" * 64, "training", "vila-m3")


def test_a_question_that_does_not_fit_is_the_callers_to_mend(remote: RemoteEngine) -> None:
    with pytest.raises(DataError, match="context"):
        list(remote.stream([Message(role="user", text="tumor " * 3000)], GREEDY))
    with pytest.raises(DataError, match="pictures"):
        list(remote.stream([Message(role="user", text="<image> where?")], GREEDY))


def test_leaving_ends_the_work_of_the_service() -> None:
    service = ModelService(engine=RuleEngine(token_s=0.05), digest="", dialect="demo", tenants=Tenants())
    app = FastAPI()
    install(app, service)
    with live(app) as url, RemoteEngine(url) as engine:
        stream = engine.stream(HELLO, GREEDY)
        with closing(cast("Generator[str | Generation]", stream)):
            next(stream)
            assert service.replies.in_flight == 1
        _until(lambda: service.replies.in_flight == 0)


def test_a_service_that_starts_late_is_waited_for_and_the_caller_may_look_meanwhile() -> None:
    port = free_port()
    with RemoteEngine(f"http://127.0.0.1:{port}", patience_s=20.0) as engine:
        stream = engine.stream(HELLO, GREEDY)
        assert next(stream) == ""
        with live(application(RuleEngine()), port=port):
            *_, last = stream
    assert isinstance(last, Generation)
    assert last.text.startswith("finding0 finding1")


def test_a_service_that_is_not_there_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with RemoteEngine(url, patience_s=0.2) as engine, pytest.raises(EngineError, match=f"engine {url}: no answer"):
        list(engine.stream(HELLO, GREEDY))
    with pytest.raises(UserError, match="--vlm ftp://x: not an HTTP address"):
        RemoteEngine("ftp://x")


def test_a_key_is_needed_where_there_are_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with live(application(RuleEngine(), keys=["alpha-key-0123456789"])) as url:
        with RemoteEngine(url) as engine, pytest.raises(EngineError, match="Authorization: missing"):
            list(engine.stream(HELLO, GREEDY))
        monkeypatch.setenv("VILAM3_API_KEY", "alpha-key-0123456789")
        with RemoteEngine(url) as engine:
            assert engine.generate([HELLO], GREEDY)[0].finish_reason == "stop"


def breaking_off(after: Sequence[int], *, says: Sequence[str] = ("an essay", "an essay")) -> FastAPI:
    """Streams words; the tries in turn break off after so many of them, the last one does not."""
    app, tries = FastAPI(), iter(zip([*after, None], says, strict=False))

    def lines(most: int | None, text: str) -> Iterator[str]:
        for number, letter in enumerate(text):
            if number == most:
                raise ConnectionError("the process died")
            yield f'data: {{"choices": [{{"delta": {{"content": "{letter}"}}}}]}}\n\n'
        yield 'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'

    @app.post("/v1/chat/completions")
    def chat() -> StreamingResponse:
        most, text = next(tries)
        return StreamingResponse(lines(most, text), media_type="text/event-stream")

    return app


def test_a_service_that_dies_in_the_middle_of_a_reply_is_asked_again() -> None:
    with live(breaking_off([3])) as url, RemoteEngine(url, patience_s=5) as engine:
        *pieces, last = engine.stream(HELLO, GREEDY)
    assert isinstance(last, Generation)
    assert "".join(str(piece) for piece in pieces) == last.text == "an essay"


def test_what_another_try_would_say_differently_is_not_patched_together() -> None:
    with (
        live(breaking_off([3], says=("an essay", "no idea"))) as url,
        RemoteEngine(url, patience_s=5) as engine,
        pytest.raises(EngineError, match="says something else"),
    ):
        list(engine.stream(HELLO, GREEDY))
    with live(breaking_off([3])) as url, RemoteEngine(url) as engine, pytest.raises(EngineError, match="no answer"):
        list(engine.stream(HELLO, Sampling(temperature=1.0)))


def test_a_caller_who_waits_for_a_place_hears_that_the_service_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a silent service is believed to be alive."""
    monkeypatch.setattr("vilam3.services.engine.SILENT_S", 0.5)
    service = ModelService(engine=RuleEngine(), digest="", dialect="demo", tenants=Tenants())
    service.replies, app = Lane("replies", workers=1, waiting=4), FastAPI()
    blocking = service.replies.submit(lambda: time.sleep(1.5))
    install(app, service)
    with live(app) as url, RemoteEngine(url) as engine:
        assert engine.generate([HELLO], GREEDY)[0].finish_reason == "stop"
        assert blocking.done()


def test_a_cancelled_reply_ends_without_an_error() -> None:
    cancelled = threading.Event()
    cancelled.set()
    with RemoteEngine(f"http://127.0.0.1:{free_port()}") as engine:
        (*_, last) = engine.stream(HELLO, GREEDY, cancelled=cancelled)
    assert last == Generation(text="", prompt_tokens=0, completion_tokens=0, finish_reason="cancelled")


def _until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)

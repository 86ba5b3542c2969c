"""The engine: batches equal single replies, ends, limits, sampling, cancellation and threads."""

import threading
from dataclasses import replace

import pytest
import torch
from PIL import Image

from vilam3.dialogue.messages import Engine, Generation, Message, Sampling
from vilam3.errors import DataError, EngineError
from vilam3.model.checkpoint import Loaded, fresh
from vilam3.model.engine import TorchEngine, greedy
from vilam3.model.images import pixels_NCHW

GREEDY = Sampling(max_new_tokens=10)


def _talks(pictures: tuple[Image.Image, ...]) -> list[list[Message]]:
    return [
        [Message(role="user", text="<image>Is there a tumor?", images=pictures[:1])],
        [Message(role="user", text="a longer question without a picture, so that rows differ")],
        [
            Message(role="user", text="<image><image> two", images=pictures[1:3]),
            Message(role="assistant", text="yes"),
            Message(role="user", text="and <image>?", images=pictures[3:4]),
        ],
    ]


def _stream(engine: TorchEngine, talk: list[Message], sampling: Sampling) -> tuple[list[str], Generation]:
    *pieces, last = engine.stream(talk, sampling)
    assert isinstance(last, Generation)
    assert all(isinstance(piece, str) for piece in pieces)
    return [str(piece) for piece in pieces], last


@pytest.fixture(scope="module")
def engine(loaded: Loaded) -> TorchEngine:
    return TorchEngine(loaded)


def _silence(loaded: Loaded, token: str) -> Loaded:
    """A copy whose head always prefers one token."""
    made = fresh(loaded.config, loaded.tokenizer)
    made.model.load_state_dict(loaded.model.state_dict())
    with torch.no_grad():
        made.model.llm.model.norm.weight.zero_()
        made.model.llm.lm_head.weight.zero_()
    hook = torch.nn.Linear(loaded.config.llm.hidden_size, made.config.llm.vocab_size)
    with torch.no_grad():
        hook.weight.zero_()
        hook.bias.zero_()
        hook.bias[made.tokenizer.token_id(token)] = 5.0
    made.model.llm.lm_head = hook
    made.model.eval()
    return made


def test_it_is_an_engine(engine: TorchEngine) -> None:
    keeps_protocol: Engine = engine
    assert keeps_protocol.name == "vila-m3"


def test_a_batch_a_single_reply_and_a_stream_are_the_same(
    engine: TorchEngine, loaded: Loaded, pictures: tuple[Image.Image, ...]
) -> None:
    talks = _talks(pictures)
    together = engine.generate(talks, GREEDY)
    assert together == TorchEngine(loaded, batch_size=2).generate(talks, GREEDY)
    for talk, reply in zip(talks, together, strict=True):
        pieces, last = _stream(engine, talk, GREEDY)
        assert [last] == engine.generate([talk], GREEDY) == [reply]
        assert "".join(pieces) == reply.text
        assert reply.completion_tokens == 10
        assert reply.finish_reason == "length"


def test_it_equals_the_uncached_greedy_search(
    engine: TorchEngine, loaded: Loaded, pictures: tuple[Image.Image, ...]
) -> None:
    """Token by token through whole forward passes."""
    talk = _talks(pictures)[0]
    row = engine._row(talk, GREEDY)
    pixels = pixels_NCHW(row.prompt.images, loaded.config)
    ids = list(row.prompt.input_ids)
    with torch.no_grad():
        for _ in range(10):
            ids.append(int(loaded.model(torch.tensor([ids]), pixels).logits_BLV[0, -1].argmax()))
    expected = ids[len(row.prompt.input_ids) :]
    assert greedy(loaded, row.prompt.input_ids, pixels, max_new=10)[1] == expected
    whole = loaded.tokenizer.decode(expected).rstrip("\N{REPLACEMENT CHARACTER}")  # an unfinished last character
    assert engine.generate([talk], GREEDY)[0].text == whole.strip()
    assert row.prompt.num_embedded == engine.generate([talk], GREEDY)[0].prompt_tokens


@pytest.mark.parametrize("token", ["<|eot_id|>", "<|end_of_text|>"])
def test_both_end_tokens_stop_but_not_before_the_minimum(loaded: Loaded, token: str) -> None:
    ending = TorchEngine(_silence(loaded, token))
    talk = [Message(role="user", text="q")]
    (reply,) = ending.generate([talk], replace(GREEDY, min_new_tokens=0))
    assert (reply.text, reply.completion_tokens, reply.finish_reason) == ("", 1, "stop")
    (reply,) = ending.generate([talk], replace(GREEDY, min_new_tokens=3))
    assert (reply.completion_tokens, reply.finish_reason) == (4, "stop")
    assert _stream(ending, talk, replace(GREEDY, min_new_tokens=3))[1] == reply


def test_a_reply_never_runs_past_the_last_position(loaded: Loaded) -> None:
    talk = [Message(role="user", text="z" * 150)]
    (reply,) = TorchEngine(loaded).generate([talk], Sampling(max_new_tokens=10**6))
    assert reply.finish_reason in {"length", "stop"}
    assert reply.prompt_tokens + reply.completion_tokens <= loaded.config.llm.max_position_embeddings


def test_sampling_is_repeatable_by_seed_and_the_same_in_a_batch(
    engine: TorchEngine, pictures: tuple[Image.Image, ...]
) -> None:
    talks = _talks(pictures)
    warm = Sampling(temperature=1.5, top_p=0.9, max_new_tokens=8, seed=4)
    first = engine.generate(talks, warm)
    assert first == engine.generate(talks, warm)
    assert first[1:2] == engine.generate(talks[1:2], warm)
    assert first != engine.generate(talks, replace(warm, seed=5))


def test_a_tiny_nucleus_is_greedy(engine: TorchEngine, pictures: tuple[Image.Image, ...]) -> None:
    talk = _talks(pictures)[0]
    narrow = Sampling(temperature=1.0, top_p=1e-9, max_new_tokens=8, seed=1)
    assert engine.generate([talk], narrow)[0].text == engine.generate([talk], replace(GREEDY, max_new_tokens=8))[0].text


def test_cancelling_ends_the_stream_between_tokens(engine: TorchEngine) -> None:
    cancelled = threading.Event()
    parts: list[str | Generation] = []
    for part in engine.stream([Message(role="user", text="q")], Sampling(max_new_tokens=200), cancelled=cancelled):
        parts.append(part)
        cancelled.set()
    last = parts[-1]
    assert isinstance(last, Generation)
    assert last.finish_reason == "cancelled"
    assert last.completion_tokens < 10
    assert "".join(str(part) for part in parts[:-1]) == last.text


def test_threads_share_it(engine: TorchEngine, pictures: tuple[Image.Image, ...]) -> None:
    """Streams in three threads take turns and give what each gives alone; an abandoned one blocks nobody."""
    talks = _talks(pictures)
    expected = engine.generate(talks, GREEDY)
    abandoned = engine.stream(talks[0], GREEDY)
    next(abandoned)
    replies: dict[int, Generation] = {}
    threads = [
        threading.Thread(target=lambda i=index: replies.update({i: _stream(engine, talks[i], GREEDY)[1]}))
        for index in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    abandoned.close()  # type: ignore[attr-defined]  # a generator
    assert [replies[index] for index in range(3)] == expected


def test_a_question_that_does_not_fit_is_the_callers_fault(engine: TorchEngine) -> None:
    with pytest.raises(DataError, match="newest question"):
        engine.generate([[Message(role="user", text="long " * 400)]], GREEDY)


def test_a_fault_of_the_network_is_ours(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    engine = TorchEngine(loaded)
    monkeypatch.setattr(loaded.model, "prefill", exhaust)
    with pytest.raises(EngineError, match="the network failed"):
        engine.generate([[Message(role="user", text="q")]], GREEDY)


def test_nothing_asked_is_nothing_answered(engine: TorchEngine) -> None:
    assert engine.generate([], GREEDY) == []

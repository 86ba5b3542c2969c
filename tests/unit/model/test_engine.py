"""The engine: what is decoded together equals what is decoded alone; ends, limits, sampling, cancelling, threads."""

import gc
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import cast

import pytest
import torch
from PIL import Image

from vilam3.dialogue.messages import Engine, Generation, Message, Sampling
from vilam3.errors import BusyError, DataError, EngineError
from vilam3.model.batching.loop import Limits
from vilam3.model.checkpoint import Loaded, fresh
from vilam3.model.engine import TorchEngine
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
    assert together == TorchEngine(loaded, limits=Limits(slots=2)).generate(talks, GREEDY)
    for talk, reply in zip(talks, together, strict=True):
        pieces, last = _stream(engine, talk, GREEDY)
        assert [last] == engine.generate([talk], GREEDY) == [reply]
        assert "".join(pieces) == reply.text
        assert reply.completion_tokens == 10
        assert reply.finish_reason == "length"


@torch.no_grad()
def _uncached(loaded: Loaded, ids: Sequence[int], pictures: Sequence[Image.Image]) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens and log-probabilities, each by a whole forward pass of the network that is trained."""
    pixels, ids, said = pixels_NCHW(pictures, loaded.config), list(ids), []
    for _ in range(10):
        logits = loaded.model(torch.tensor([ids]), pixels).logits_BLV
        assert logits is not None
        said.append(logits[0, -1].log_softmax(dim=-1))
        ids.append(int(said[-1].argmax()))
    return ids[-10:], torch.stack(said)


def _prompts(loaded: Loaded, pictures: tuple[Image.Image, ...]) -> list[tuple[list[int], tuple[Image.Image, ...]]]:
    texts = {
        "a picture <image> and then a tail of some length that goes on": pictures[:1],
        "no picture": (),
        "<image> T1: <image>, T2: <image>, FLAIR: <image> these are " + "four and an overlay " * 6: pictures,
        "<image>": pictures[2:3],
    }
    counted = {text: images[: text.count("<image>")] for text, images in texts.items()}
    return [(loaded.tokenizer.encode_with_images(text), images) for text, images in counted.items()]


@pytest.mark.parametrize("chunk", [3, 7, 1000])
def test_tokens_and_log_probabilities_are_those_of_whole_forward_passes(
    loaded: Loaded, pictures: tuple[Image.Image, ...], chunk: int
) -> None:
    """Prompts cut into pieces anywhere, also within a picture; joined in mid-flight; then with what is remembered."""
    engine = TorchEngine(loaded, limits=Limits(slots=3, chunk=chunk))
    prompts = _prompts(loaded, pictures)
    expected = [_uncached(loaded, ids, images) for ids, images in prompts]
    for _ in range(2):
        with ThreadPoolExecutor(len(prompts)) as pool:
            traces = list(pool.map(lambda prompt: engine.trace(*prompt, max_new=10), prompts))
        for trace, (ids, logprobs) in zip(traces, expected, strict=True):
            assert list(trace.ids) == ids
            assert (torch.stack(trace.logprobs_TV) - logprobs).abs().max() < 1e-4
    stats = engine.stats()
    assert stats.prompt_tokens_reused > 0
    assert stats.images == 12
    assert stats.images_reused >= 6
    assert (stats.running, stats.waiting, stats.free_slots) == (0, 0, 3)
    assert stats.generated_tokens == 80
    assert stats.first_tokens is not None
    assert sum(stats.first_tokens.counts) == 8


def test_a_request_that_gets_the_place_of_one_that_moves_disturbs_it_not(loaded: Loaded) -> None:
    """The first ends, the second moves to its place, and the third begins from memory where the second was."""
    engine, fresh_one = TorchEngine(loaded, limits=Limits(slots=2)), TorchEngine(loaded)
    texts = ("short", "the one that is moved in the middle of its reply", "remembered " * 40)
    talks = [[Message(role="user", text=text)] for text in texts]
    lengths = (20, 60, 20)
    engine.generate(talks[2:], GREEDY)
    samplings = [replace(GREEDY, min_new_tokens=length, max_new_tokens=length) for length in lengths]
    tickets = [engine.submit(talk, sampling) for talk, sampling in zip(talks, samplings, strict=True)]
    replies = [cast("Generation", list(ticket)[-1]) for ticket in tickets]
    alone = [fresh_one.generate([talk], sampling)[0] for talk, sampling in zip(talks, samplings, strict=True)]
    assert [reply.text for reply in replies] == [reply.text for reply in alone]
    assert replies[2].reused_tokens > 0


def test_the_second_turn_of_a_conversation_reuses_the_first(loaded: Loaded, pictures: tuple[Image.Image, ...]) -> None:
    engine, fresh_one = TorchEngine(loaded), TorchEngine(loaded)
    first = [Message(role="user", text="<image><image> Is there a hepatic tumor?" + " yes" * 20, images=pictures[:2])]
    (reply,) = engine.generate([first], GREEDY)
    second = [*first, Message(role="assistant", text=reply.text), Message(role="user", text="and where?")]
    (again,) = engine.generate([second], GREEDY)
    assert again == fresh_one.generate([second], GREEDY)[0]
    assert reply.reused_tokens == 0
    assert again.reused_tokens >= (reply.prompt_tokens // 32) * 32 > 0


def test_one_scope_never_gets_what_another_left(loaded: Loaded, pictures: tuple[Image.Image, ...]) -> None:
    engine = TorchEngine(loaded)
    talk = [Message(role="user", text="<image> Is there a hepatic tumor?" + " yes" * 20, images=pictures[:1])]
    for scope in ("hospital", "clinic"):
        (reply,) = engine.generate([talk], replace(GREEDY, scope=scope))
        assert reply.reused_tokens == 0
    assert engine.stats().images_reused == 0
    assert engine.generate([talk], replace(GREEDY, scope="clinic"))[0].reused_tokens > 0


def test_another_picture_in_the_same_place_is_not_taken_for_the_first(
    loaded: Loaded, pictures: tuple[Image.Image, ...]
) -> None:
    engine = TorchEngine(loaded)
    ids = loaded.tokenizer.encode_with_images("<image> Is there a hepatic tumor?" + " yes" * 20)
    engine.trace(ids, pictures[:1], max_new=10)
    other = engine.trace(ids, pictures[1:2], max_new=10)
    assert list(other.ids) == _uncached(loaded, ids, pictures[1:2])[0]
    assert engine.stats().prompt_tokens_reused == 0


def test_a_bounded_memory_forgets_and_goes_on(loaded: Loaded, pictures: tuple[Image.Image, ...]) -> None:
    engine = TorchEngine(loaded, limits=Limits(slots=2, prefix_bytes=40_000, feature_bytes=1_100))
    talks = _talks(pictures)
    expected = TorchEngine(loaded).generate(talks, GREEDY)
    for _ in range(3):
        assert engine.generate(talks, GREEDY) == expected
    assert 0 < engine._loop.prefixes.nbytes <= 40_000
    assert 0 < engine._loop.features.nbytes <= 1_100


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
    assert last.completion_tokens < 200
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


def test_a_fault_of_the_network_is_ours_and_the_next_request_is_served(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    engine = TorchEngine(loaded)
    with monkeypatch.context() as broken:
        broken.setattr(engine._loop._network, "run", exhaust)
        with pytest.raises(EngineError, match="the network failed"):
            engine.generate([[Message(role="user", text="q")]], GREEDY)
    assert engine.generate([[Message(role="user", text="q")]], GREEDY)[0].completion_tokens == 10


def test_a_reply_ends_after_a_stop_text_and_keeps_it(engine: TorchEngine) -> None:
    talk = [Message(role="user", text="a longer question without a picture")]
    long = replace(GREEDY, max_new_tokens=40)
    (whole,) = engine.generate([talk], long)
    stop = whole.text[6:9]
    pieces, cut = _stream(engine, talk, replace(long, stop=("never said", stop)))
    assert cut.text == "".join(pieces) == whole.text[: whole.text.index(stop) + 3]
    assert cut.finish_reason == "stop"
    assert cut.completion_tokens < whole.completion_tokens
    assert _stream(engine, talk, replace(long, stop=("never said",)))[1] == whole


def test_guided_decoding_is_refused_in_words(engine: TorchEngine) -> None:
    with pytest.raises(DataError, match="engine vllm"):
        engine.submit([Message(role="user", text="q")], replace(GREEDY, pattern="yes|no"))


def test_more_than_are_held_are_refused_and_told_when_to_come_back(loaded: Loaded) -> None:
    engine = TorchEngine(loaded, limits=Limits(slots=1, waiting=1))
    long = replace(GREEDY, max_new_tokens=200)
    tickets = [engine.submit([Message(role="user", text="q")], long) for _ in range(2)]
    with pytest.raises(BusyError, match="try again later") as refused:
        engine.submit([Message(role="user", text="q")], GREEDY)
    assert refused.value.retry_after_s >= 1
    for ticket in tickets:
        ticket.cancel()
        *_, last = ticket
        assert isinstance(last, Generation)
        assert last.finish_reason == "cancelled"
    assert engine.generate([[Message(role="user", text="q")]], GREEDY)[0].completion_tokens == 10


def test_closing_ends_what_is_in_flight(loaded: Loaded) -> None:
    engine = TorchEngine(loaded)
    ticket = engine.submit([Message(role="user", text="q")], replace(GREEDY, max_new_tokens=10**6))
    engine.close()
    *_, last = ticket
    assert isinstance(last, Generation)
    assert last.finish_reason in {"cancelled", "length"}
    with pytest.raises(EngineError, match="closed"):
        engine.submit([Message(role="user", text="q")], GREEDY)


def test_an_engine_that_is_dropped_frees_its_network(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread ends when it has nothing to do, and begins again with the next request."""
    monkeypatch.setattr("vilam3.model.batching.loop.LINGER_S", 0.05)
    engine = TorchEngine(loaded)
    for _ in range(2):
        engine.generate([[Message(role="user", text="q")]], GREEDY)
        thread = engine._loop._thread
        if thread is not None:
            thread.join(timeout=10)
        assert engine._loop._thread is None
    loop = weakref.ref(engine._loop)
    del engine
    gc.collect()
    assert loop() is None


def test_nothing_asked_is_nothing_answered(engine: TorchEngine) -> None:
    assert engine.generate([], GREEDY) == []

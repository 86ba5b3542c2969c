"""The engine against the pattern of the official demo: one ``generate`` at a time, nothing remembered between two.

Both run here, in this process, on the same random weights in float32 and the same conversations: a picture with the
model cards and a question, a reply of 64 tokens, an expert's overlay and text, another reply of 64 tokens. Every chat
has pictures of its own. The network is the repository's tiny preset, where what a pass costs besides arithmetic rules;
and a larger one, where on a processor the arithmetic does. Neither tells the speed of the published sizes on an
accelerator.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.record import Figure
from vilam3.dialogue.messages import Generation, Message, Sampling
from vilam3.experts.facts import CARDS
from vilam3.model.batching.loop import Limits
from vilam3.model.chat import assemble
from vilam3.model.checkpoint import Loaded, fresh
from vilam3.model.config import VilaConfig
from vilam3.model.engine import TorchEngine
from vilam3.model.images import pixels_NCHW
from vilam3.model.tokenizer import train_tiny

REPLY_TOKENS = 64
SAMPLING = Sampling(max_new_tokens=REPLY_TOKENS, min_new_tokens=REPLY_TOKENS)
QUESTION = "<image>This is a CT image.\nIs there a hepatic tumor, and in which segment of the liver does it lie?"
FOUND = "The results are <image>. The colors in this image describe red: liver, blue: hepatic tumor. "
SIDE = 512
FEW, MANY = 8, 32
REPEATS = 5
Reply = Callable[[Sequence[Message]], str]


def figures() -> list[Figure]:
    """Tokens a second of 8 and of 32 chats, and how soon a second turn begins."""
    measured = []
    for loaded, label in ((_network("tiny"), ""), (_network("larger"), ", larger network")):
        demo_per_s = _demo_per_s(loaded, chats=2)
        for chats in (FEW, MANY):
            engine_per_s = _engine_per_s(loaded, chats=chats)
            measured.append(
                Figure(
                    name=f"throughput_{chats}_chats{label}", value=engine_per_s, unit="tokens/s", baseline=demo_per_s
                )
            )
        first_ms, second_ms = _turns_ms(loaded)
        measured.append(Figure(name=f"second_turn_ttft{label}", value=second_ms, unit="ms", baseline=first_ms))
    return measured


def _network(size: str) -> Loaded:
    """Random weights; `larger` has 70 million, as much as a processor's cache does not hold."""
    torch.manual_seed(0)
    config = VilaConfig.preset("tiny")
    if size == "larger":
        llm = replace(
            config.llm,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=10,
            num_attention_heads=12,
            num_key_value_heads=4,
        )
        config = replace(config, llm=llm)
    loaded = fresh(config, train_tiny([CARDS, QUESTION, FOUND], vocab_size=config.llm.vocab_size))
    loaded.model.eval()
    return loaded


def _picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def _converse(chat: int, reply: Reply) -> None:
    """One chat of two rounds."""
    asked = Message(role="user", text=CARDS + QUESTION, images=(_picture(2 * chat),))
    first = Message(role="assistant", text=reply([asked]))
    found = Message(role="expert", text=FOUND, images=(_picture(2 * chat + 1),))
    reply(
        [
            asked,
            first,
            found,
            Message(
                role="expert", text="Use this result to respond to this prompt:\n" + QUESTION.removeprefix("<image>")
            ),
        ]
    )


def _demo_per_s(loaded: Loaded, *, chats: int) -> float:
    """Tokens a second of chats one after the other, each reply by transformers' own ``generate``."""
    reply = _demo(loaded)
    _converse(1000, reply)
    began = time.perf_counter()
    for chat in range(chats):
        _converse(chat, reply)
    return 2 * chats * REPLY_TOKENS / (time.perf_counter() - began)


@torch.inference_mode()
def _demo_tokens(loaded: Loaded, messages: Sequence[Message]) -> list[int]:
    config = loaded.config
    prompt = assemble(
        messages,
        loaded.tokenizer,
        loaded.template,
        max_tokens=config.max_tokens - REPLY_TOKENS,
        tokens_per_image=config.tokens_per_image,
    )
    spliced = loaded.model.splice(torch.tensor([prompt.input_ids]), pixels_NCHW(prompt.images, config))
    stops: list[int] = sorted(loaded.template.stop_ids(loaded.tokenizer))
    generated: Any = loaded.model.llm.generate(
        inputs_embeds=spliced.embeds_BLH,
        attention_mask=spliced.mask_BL,
        do_sample=False,
        min_new_tokens=REPLY_TOKENS,
        max_new_tokens=REPLY_TOKENS,
        eos_token_id=stops,
        pad_token_id=stops[0],
    )
    tokens: list[int] = generated[0].tolist()
    return tokens


def _demo(loaded: Loaded) -> Reply:
    return lambda messages: loaded.tokenizer.decode(_demo_tokens(loaded, messages)).strip()


def _engine_per_s(loaded: Loaded, *, chats: int) -> float:
    """Tokens a second of as many chats at once."""
    with closing(TorchEngine(loaded, limits=Limits(slots=chats))) as engine:
        _check(engine, loaded)
        began = time.perf_counter()
        with ThreadPoolExecutor(chats) as pool:
            list(pool.map(lambda chat: _converse(chat, lambda messages: _whole(engine, messages)), range(chats)))
        return 2 * chats * REPLY_TOKENS / (time.perf_counter() - began)


def _check(engine: TorchEngine, loaded: Loaded) -> None:
    """Both say the same; this also warms up."""
    messages = [Message(role="user", text=CARDS + QUESTION, images=(_picture(1000),))]
    assert _whole(engine, messages) == _demo(loaded)(messages), "engine and baseline must say the same"


def _whole(engine: TorchEngine, messages: Sequence[Message]) -> str:
    (generation,) = engine.generate([messages], SAMPLING)
    assert generation.completion_tokens == REPLY_TOKENS, "every reply has the same length"
    return generation.text


def _turns_ms(loaded: Loaded) -> tuple[float, float]:
    """Medians of the time to the first token, of a first turn and of a second one on the same pictures."""
    first_ms, second_ms = [], []
    with closing(TorchEngine(loaded)) as engine:
        _check(engine, loaded)
        for chat in range(REPEATS):
            asked = [Message(role="user", text=CARDS + QUESTION, images=(_picture(5000 + chat),))]
            answered, taken_ms = _timed(engine, asked)
            first_ms.append(taken_ms)
            followed = [*asked, Message(role="assistant", text=answered), Message(role="user", text="How large is it?")]
            second_ms.append(_timed(engine, followed)[1])
    return statistics.median(first_ms), statistics.median(second_ms)


def _timed(engine: TorchEngine, messages: Sequence[Message]) -> tuple[str, float]:
    began, taken_ms = time.perf_counter(), 0.0
    for piece in engine.submit(messages, SAMPLING):
        if isinstance(piece, Generation):
            return piece.text, taken_ms
        if piece and not taken_ms:
            taken_ms = (time.perf_counter() - began) * 1000
    raise AssertionError("a stream ends with its generation")

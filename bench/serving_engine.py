"""The engine against the pattern of the official demo: one ``generate`` at a time, nothing remembered between two.

Both run here, in this process, on the same random weights in float32 and the same conversations: a picture with the
model cards and a question, a reply of 64 tokens, an expert's overlay and text, another reply of 64 tokens. Every chat
has pictures of its own, and is followed by another one, so that as many are in flight as the figure says until the last
ones end. The network is the repository's tiny preset, where what a pass costs besides arithmetic rules; and a larger
one, where on a processor the arithmetic does. Neither tells the speed of the published sizes on an accelerator.

The networks say digits alone: text that a network without training says otherwise is cut into other tokens when it is
read again, which that of a trained one is not.
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
from vilam3.dialogue.messages import Message, Sampling
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
IN_A_ROW = 3
REPEATS = 5
Reply = Callable[[Sequence[Message]], str]


def figures() -> list[Figure]:
    """Tokens a second of 8 and of 32 chats, and how soon a second turn begins."""
    measured = []
    for loaded, label in ((_network("larger"), ""), (_network("tiny"), ", tiny network")):
        demo_per_s = _demo_per_s(loaded, chats=2)
        for chats in (FEW, MANY):
            engine_per_s = _engine_per_s(loaded, chats=chats)
            measured.append(
                Figure(
                    name=f"throughput_{chats}_chats{label}", value=engine_per_s, unit="tokens/s", baseline=demo_per_s
                )
            )
        measured.extend(_turns(loaded, label))
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
    _say_digits(loaded)
    return loaded


@torch.no_grad()
def _say_digits(loaded: Loaded) -> None:
    """Every other token gets nought, and of two digits with opposite weights one gets more than that."""
    head_VH = loaded.model.llm.lm_head.weight
    digits = [loaded.tokenizer.encode_pieces(str(digit)).input_ids[-1] for digit in range(10)]
    weights_5H = head_VH[digits[:5]].clone()
    head_VH.zero_()
    head_VH[digits] = torch.cat((weights_5H, -weights_5H))


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
    """Tokens a second of as many chats at once, each place taken again when its chat ends."""
    with closing(TorchEngine(loaded, limits=Limits(slots=chats))) as engine:
        _check(engine, loaded)
        began = time.perf_counter()
        with ThreadPoolExecutor(chats) as pool:
            list(
                pool.map(
                    lambda chat: _converse(chat, lambda messages: _whole(engine, messages)), range(IN_A_ROW * chats)
                )
            )
        return 2 * IN_A_ROW * chats * REPLY_TOKENS / (time.perf_counter() - began)


def _check(engine: TorchEngine, loaded: Loaded) -> None:
    """Both say the same; this also warms up."""
    messages = [Message(role="user", text=CARDS + QUESTION, images=(_picture(1000),))]
    assert _whole(engine, messages) == _demo(loaded)(messages), "engine and baseline must say the same"


def _whole(engine: TorchEngine, messages: Sequence[Message], scope: str = "") -> str:
    (generation,) = engine.generate([messages], replace(SAMPLING, scope=scope))
    assert generation.completion_tokens == REPLY_TOKENS, "every reply has the same length"
    return generation.text


def _turns(loaded: Loaded, label: str) -> list[Figure]:
    """Time to the first token: when nothing is remembered, when the model cards are, and of a second turn."""
    taken_ms: dict[str, list[float]] = {"nothing": [], "cards": [], "turn": []}
    with closing(TorchEngine(loaded)) as engine:
        _check(engine, loaded)
        for repeat in range(REPEATS):
            for remembered, chat in (("nothing", 2 * repeat), ("cards", 2 * repeat + 1)):
                scope = f"tenant {repeat}"  # what one tenant's questions left is not used for another's
                asked = [Message(role="user", text=CARDS + QUESTION, images=(_picture(5000 + chat),))]
                taken_ms[remembered].append(_first_token_ms(engine, asked, scope))
            said = Message(role="assistant", text=_whole(engine, asked, scope))
            followed = [*asked, said, Message(role="user", text="How large is it?")]
            taken_ms["turn"].append(_first_token_ms(engine, followed, scope))
    nothing_ms, cards_ms, turn_ms = (statistics.median(each) for each in taken_ms.values())
    return [
        Figure(name=f"second_turn_ttft{label}", value=turn_ms, unit="ms", baseline=nothing_ms),
        Figure(name=f"first_turn_ttft, model cards remembered{label}", value=cards_ms, unit="ms", baseline=nothing_ms),
    ]


def _first_token_ms(engine: TorchEngine, messages: Sequence[Message], scope: str) -> float:
    began = time.perf_counter()
    engine.generate([messages], replace(SAMPLING, min_new_tokens=1, max_new_tokens=1, scope=scope))
    return (time.perf_counter() - began) * 1000

"""vLLM and vilam3's own engine say the same on the same small checkpoint: tokens, and log-probabilities within 1e-4.

Runs where vLLM is installed, by ``make test-vllm``; both engines are in this process, in float32.
"""

import copy
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vilam3.dialogue.messages import Engine, Generation, Message, Sampling
from vilam3.errors import BusyError, DataError, UserError
from vilam3.model.checkpoint import Loaded, fresh, save
from vilam3.model.config import VilaConfig
from vilam3.model.engine import TorchEngine
from vilam3.model.engine import Trace as OurTrace
from vilam3.model.tokenizer import train_tiny

pytest.importorskip("vllm", reason="vLLM is not in this environment; make test-vllm makes one that has it")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
from vilam3_vllm.engine import Trace, VllmEngine

TEXTS = ("Is there a hepatic tumor in this CT image? yes no", "Let me trigger <VISTA3D(hepatic tumor)>.")
IN_PROCESS = {
    "enforce_eager": True,
    "distributed_executor_backend": "uni",
    "max_model_len": 1024,
    "dtype": "float32",
    "kv_cache_memory_bytes": 256 * 2**20,
    "max_logprobs": -1,
}
HIDDEN = 128  # four heads of 32: vLLM's attention on processors takes none of the preset's 40
CLOSE = 1e-4
RANK, ALPHA = 8, 16
GREEDY = Sampling(max_new_tokens=16)


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    """The tiny preset with random weights, large enough that a mistake moves the logits."""
    torch.manual_seed(0)
    tiny = VilaConfig.preset("tiny")
    config = replace(tiny, llm=replace(tiny.llm, hidden_size=HIDDEN))
    made = fresh(config, train_tiny(TEXTS * 5, vocab_size=400))
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.1)
    made.model.eval()
    return made


@pytest.fixture(scope="module", params=["folders", "flat"])
def checkpoint(request: pytest.FixtureRequest, loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save(loaded, path, layout=request.param)
    return path


@pytest.fixture(scope="module")
def vllm(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save(loaded, path)
    engine = VllmEngine(path, slots=4, waiting=4, options=IN_PROCESS)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def ours(loaded: Loaded) -> TorchEngine:
    return TorchEngine(loaded)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (90, 120, 3), dtype=np.uint8))


TALKS = {
    "no image": [Message(role="user", text="Is there a hepatic tumor?")],
    "one image": [Message(role="user", text="<image>This is a CT image.\nyes or no?", images=(picture(0),))],
    "several images": [
        Message(role="user", text="T1: <image>, T2: <image>, <image> these", images=tuple(map(picture, (1, 2, 3)))),
        Message(role="assistant", text="I trigger <VISTA3D(hepatic tumor)>"),
        Message(role="expert", text="The results are <image>. ", images=(picture(4),)),
        Message(role="expert", text="Use this result\n"),
    ],
}


def farthest(there: Trace, here: OurTrace) -> float:
    """The greatest difference of a log-probability, over all tokens of the vocabulary at each place."""
    return max(
        abs(told[token] - float(logprob))
        for told, logprobs_V in zip(there.logprobs, here.logprobs_TV, strict=True)
        for token, logprob in enumerate(logprobs_V)
    )


@pytest.mark.parametrize("talk", TALKS)
def test_tokens_and_log_probabilities_are_the_same(vllm: VllmEngine, ours: TorchEngine, talk: str) -> None:
    """Twice, the second time with what both engines remember."""
    prompt, _ = ours._voice.fit(TALKS[talk], GREEDY)
    for _ in range(2):
        here = ours.trace(prompt.input_ids, prompt.images, max_new=16)
        there = vllm.trace(prompt.input_ids, prompt.images, max_new=16)
        assert there.ids == here.ids
        assert farthest(there, here) < CLOSE


def test_both_are_engines_and_say_the_same_together(vllm: VllmEngine, ours: TorchEngine) -> None:
    both: tuple[Engine, Engine] = (vllm, ours)
    there, here = (engine.generate(list(TALKS.values()), GREEDY) for engine in both)
    assert there == here
    with ThreadPoolExecutor(3) as pool:
        streamed = list(pool.map(lambda talk: list(vllm.stream(talk, GREEDY)), TALKS.values()))
    assert [parts[-1] for parts in streamed] == here
    assert ["".join(str(part) for part in parts[:-1]) for parts in streamed] == [reply.text for reply in here]


def test_what_is_remembered_stays_in_its_scope(vllm: VllmEngine) -> None:
    talk = [Message(role="user", text="<image>" + "hepatic tumor yes " * 60, images=(picture(9),))]
    reused = []
    for scope in ("hospital", "hospital", "clinic"):
        (reply,) = vllm.generate([talk], replace(GREEDY, scope=scope))
        reused.append(reply.reused_tokens)
    assert reused[0] == reused[2] == 0
    assert reused[1] > 0


def test_a_stop_text_keeps_its_closing(vllm: VllmEngine, ours: TorchEngine) -> None:
    talk = TALKS["no image"]
    (whole,) = ours.generate([talk], GREEDY)
    stop = whole.text[4:6]
    for engine in (vllm, ours):
        *_, last = engine.stream(talk, replace(GREEDY, stop=(stop,)))
        assert isinstance(last, Generation)
        assert (last.text, last.finish_reason) == (whole.text[: whole.text.index(stop) + 2], "stop")


def test_a_reply_can_be_guided(vllm: VllmEngine) -> None:
    (reply,) = vllm.generate([TALKS["one image"]], replace(GREEDY, pattern=r"<VISTA3D\((hepatic|lung) tumor\)>"))
    assert reply.text in {"<VISTA3D(hepatic tumor)>", "<VISTA3D(lung tumor)>"}


def test_what_is_cancelled_ends_and_what_is_too_much_is_refused(vllm: VllmEngine) -> None:
    long = replace(GREEDY, max_new_tokens=800, min_new_tokens=800)
    tickets = [vllm.submit(TALKS["no image"], long) for _ in range(8)]
    with pytest.raises(BusyError, match="try again"):
        vllm.submit(TALKS["no image"], long)
    for ticket in tickets:
        ticket.cancel()
        *_, last = ticket
        assert isinstance(last, Generation)
        assert last.finish_reason == "cancelled"
    assert vllm.generate([TALKS["no image"]], GREEDY)[0].finish_reason == "length"
    assert vllm.stats().running == 0


def with_adapter(loaded: Loaded, folder: Path) -> Loaded:
    """Write an adapter in PEFT's format; returns the model with it merged."""
    merged = copy.deepcopy(loaded)
    tensors: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(1)
    for name, parameter in merged.model.llm.named_parameters():
        if not name.endswith(("q_proj.weight", "v_proj.weight", "down_proj.weight")):
            continue
        down = 0.2 * torch.randn(RANK, parameter.shape[1], generator=generator)
        up = 0.2 * torch.randn(parameter.shape[0], RANK, generator=generator)
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
        parameter.data += ALPHA / RANK * up @ down
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return merged


def test_an_adapter_says_what_the_model_says_with_it_merged(loaded: Loaded, ours: TorchEngine, tmp_path: Path) -> None:
    save(loaded, tmp_path / "tiny")
    merged = TorchEngine(with_adapter(loaded, tmp_path / "adapter"))
    engine = VllmEngine(tmp_path / "tiny", options={**IN_PROCESS, "lora": tmp_path / "adapter", "max_lora_rank": RANK})
    for talk in TALKS.values():
        prompt, _ = ours._voice.fit(talk, GREEDY)
        there = engine.trace(prompt.input_ids, prompt.images, max_new=16)
        here = merged.trace(prompt.input_ids, prompt.images, max_new=16)
        assert there.ids == here.ids
        assert farthest(there, here) < CLOSE
    assert here.ids != ours.trace(prompt.input_ids, prompt.images, max_new=16).ids
    engine.close()


def test_a_prompt_with_the_padding_token_is_refused(vllm: VllmEngine) -> None:
    with pytest.raises(DataError, match="padding"):
        vllm.submit([Message(role="user", text="[PAD]")], GREEDY)


def test_an_argument_that_vllm_lacks_is_named(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="no_such_argument"):
        VllmEngine(checkpoint, options={"no_such_argument": 1})


def test_the_flat_layout_is_read_too(checkpoint: Path, ours: TorchEngine) -> None:
    engine = VllmEngine(checkpoint, options=IN_PROCESS)
    assert engine.generate([TALKS["one image"]], GREEDY) == ours.generate([TALKS["one image"]], GREEDY)
    engine.close()

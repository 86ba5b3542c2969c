"""A network of a few thousand weights with an odd patch grid, its tokenizer and its checkpoint."""

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.model.large import made_large
from vilam3.model.chat import template
from vilam3.model.checkpoint import Loaded, save
from vilam3.model.config import LlmConfig, VilaConfig, VisionConfig
from vilam3.model.tokenizer import PieceTokenizer, from_files, train_tiny

TEXTS = (
    "Is there a hepatic tumor in this CT image? yes no",
    "You are a helpful language and vision assistant. The results are <VISTA3D(hepatic tumor)>",
)

QWEN2_TEXTS = ("Is there a hepatic tumor in this CT image? yes no", "You are a helpful assistant. 1234 élan\n\nnaïve")


@pytest.fixture(scope="session")
def tokenizer() -> PieceTokenizer:
    """Byte-level, with Llama-3's markers."""
    return train_tiny(TEXTS * 5, vocab_size=400)


@pytest.fixture(scope="session")
def qwen2() -> PieceTokenizer:
    """Byte-level, with Qwen2's markers, and the published template among its files."""
    return train_tiny(QWEN2_TEXTS * 5, vocab_size=420, markers="qwen2", chat_template=template("qwen2").jinja)


@pytest.fixture(scope="session")
def config() -> VilaConfig:
    """3x3 patches, so that padding runs; 4 tokens per image."""
    return VilaConfig(
        vision=VisionConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=42
        ),
        llm=LlmConfig(
            vocab_size=400,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tokenizer_model_max_length=400,
        ),
        template="llama_3",
        prompt_dialect="training",
    )


@pytest.fixture(scope="session")
def loaded(config: VilaConfig, tokenizer: PieceTokenizer) -> Loaded:
    """Random weights."""
    return made_large(config, tokenizer)


@pytest.fixture(scope="session")
def saved(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its checkpoint in three folders, the language model in several shards. Do not write to it."""
    path = tmp_path_factory.mktemp("checkpoint") / "small"
    save(loaded, path, max_shard_bytes=40_000)
    return path


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be damaged."""
    path = tmp_path / "copy"
    shutil.copytree(saved, path)
    return path


@pytest.fixture
def undigested(copy: Path) -> Path:
    """A copy without digests, as the published checkpoints are."""
    (copy / "digests.json").unlink()
    return copy


@pytest.fixture(scope="session")
def pictures() -> tuple[Image.Image, ...]:
    """Five different pictures of different shapes."""
    random = np.random.default_rng(0)
    return tuple(
        Image.fromarray(random.integers(0, 256, (30 + 7 * index, 50, 3), dtype=np.uint8)) for index in range(5)
    )


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """What the published tokenizer code makes of some texts; the file names its source."""
    value: dict[str, Any] = json.loads((Path(__file__).parent / "data/slow_tokenizer.json").read_text(encoding="utf-8"))
    return value


@pytest.fixture(scope="session")
def slow(golden: dict[str, Any]) -> PieceTokenizer:
    """The sentencepiece tokenizer of `golden`."""
    files = {
        "tokenizer.model": base64.b64decode(golden["tokenizer_model_base64"]),
        "tokenizer_config.json": json.dumps(golden["tokenizer_config"]).encode(),
    }
    return from_files(files, where=Path("golden"))


@pytest.fixture
def seeded() -> Iterator[None]:
    """Torch's global generator, restored afterwards."""
    state = torch.get_rng_state()
    torch.manual_seed(1)
    yield
    torch.set_rng_state(state)


@pytest.fixture(scope="session")
def published_vision() -> VilaConfig:
    """The published picture size with a narrow network, for shapes."""
    base = VilaConfig.preset("8b")
    return replace(base, vision=replace(base.vision, hidden_size=8, num_attention_heads=2, num_hidden_layers=2))

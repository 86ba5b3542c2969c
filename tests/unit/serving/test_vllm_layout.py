"""What the engine on vLLM cannot serve is refused before vLLM reads anything; vLLM itself is not needed for that."""

import importlib
from pathlib import Path

import pytest
import torch

from vilam3.errors import CheckpointError
from vilam3.model.checkpoint import fresh, save
from vilam3.model.config import Preset, VilaConfig
from vilam3.model.tokenizer import train_tiny


@pytest.mark.parametrize(("preset", "is_served"), [("tiny", True), ("nvila-tiny", False)])
def test_a_network_of_another_shape_is_refused_with_what_serves_it(
    preset: Preset, is_served: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend("serving/vllm")  # a distribution of its own, which is not installed beside the library
    write = importlib.import_module("vilam3_vllm.layout").write
    torch.manual_seed(0)
    tokenizer = train_tiny(["Is there a tumor? yes no"], vocab_size=400, markers="llama_3" if is_served else "qwen2")
    save(fresh(VilaConfig.preset(preset), tokenizer), tmp_path / "model")
    if is_served:
        assert (write(tmp_path / "model", tmp_path / "out") / "config.json").is_file()
        return
    with pytest.raises(CheckpointError, match=r"qwen2 language model .* is not served by vLLM; serve it with --engine"):
        write(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()

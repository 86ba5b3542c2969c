"""Time and memory to load a checkpoint of about one gigabyte, against reading it whole and copying it in.

Each measurement runs in a process of its own. Peak memory is the process's own high-water mark (``VmHWM``), which
counts mapped file pages too; the libraries' own share, there before loading begins, is subtracted for the ratio to the
weights and shown beside it.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load as parse_safetensors

from bench.record import Figure, write
from vilam3.model.checkpoint import fresh, load, read_config, save
from vilam3.model.config import LlmConfig, VilaConfig, VisionConfig
from vilam3.model.tokenizer import train_tiny
from vilam3.model.vila import Vila

MOST_PEAK_BY_WEIGHTS = 1.15
SHARD_BYTES = 300_000_000
MEGABYTE = 1_000_000
WAYS = ("mapped", "unverified", "naive")


def run() -> dict[str, Any]:
    """Write a random checkpoint to a temporary directory and load it each way."""
    with tempfile.TemporaryDirectory(prefix="vilam3-bench-") as folder:
        path = Path(folder) / "checkpoint"
        num_bytes = make_random_checkpoint(path)
        measured = {way: _measure(path, way) for way in WAYS}
    mapped, unverified, naive = (measured[way] for way in WAYS)
    weights_mb = num_bytes / MEGABYTE
    figures = [
        Figure(name="weights", value=weights_mb, unit="MB"),
        Figure(name="libraries before loading", value=mapped["before_mb"], unit="MB"),
        Figure(name="load, digests verified", value=mapped["load_s"], unit="s", baseline=naive["load_s"]),
        Figure(name="load, digests not verified", value=unverified["load_s"], unit="s", baseline=naive["load_s"]),
        Figure(name="peak of the process, loaded", value=mapped["loaded_mb"], unit="MB", baseline=naive["loaded_mb"]),
        Figure(
            name="peak of the process, every weight read", value=mapped["read_mb"], unit="MB", baseline=naive["read_mb"]
        ),
        Figure(
            name="peak above the libraries, every weight read, by weights",
            value=(mapped["read_mb"] - mapped["before_mb"]) / weights_mb,
            unit="x",
            baseline=MOST_PEAK_BY_WEIGHTS,
        ),
        Figure(
            name="the same, naive",
            value=(naive["read_mb"] - naive["before_mb"]) / weights_mb,
            unit="x",
            baseline=MOST_PEAK_BY_WEIGHTS,
        ),
    ]
    return write("load", figures, command="make bench AREAS=load")


def make_random_checkpoint(path: Path) -> int:
    """Write about one gigabyte of random float32 weights in several shards; returns their size in bytes."""
    torch.manual_seed(0)
    config = VilaConfig(
        vision=VisionConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=4, num_attention_heads=12),
        llm=LlmConfig(
            vocab_size=512,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=4,
            num_attention_heads=16,
            num_key_value_heads=16,
            max_position_embeddings=2048,
        ),
        template="llama_3",
    )
    made = fresh(replace(config, model_dtype="torch.float32"), train_tiny(["yes no"], vocab_size=512))
    save(made, path, max_shard_bytes=SHARD_BYTES)
    return sum(parameter.nbytes for parameter in made.model.parameters())


def _measure(path: Path, way: str) -> dict[str, float]:
    finished = subprocess.run(  # noqa: S603 - our own module on our own temporary directory
        [sys.executable, "-m", "bench.load", way, str(path)],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    measured: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return measured


def _load_naively(path: Path) -> Vila:
    """Initialise the network, read every file whole, copy each tensor in."""
    model = Vila(read_config(path))
    state: dict[str, torch.Tensor] = {}
    for part in ("llm", "vision_tower", "mm_projector"):
        for file in sorted((path / part).glob("*.safetensors")):
            state |= {f"{part}.{name}": tensor for name, tensor in parse_safetensors(file.read_bytes()).items()}
    model.load_state_dict(state)
    return model


def _child(way: str, path: Path) -> None:
    """Load `path` one way and print what it took."""
    before_mb = psutil.Process().memory_info().rss / MEGABYTE
    began = time.perf_counter()
    model = _load_naively(path) if way == "naive" else load(path, verify=way == "mapped").model
    load_s = time.perf_counter() - began
    loaded_mb = _peak_mb()
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.sum()
    print(json.dumps({"before_mb": before_mb, "load_s": load_s, "loaded_mb": loaded_mb, "read_mb": _peak_mb()}))


def _peak_mb() -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / MEGABYTE
    raise OSError("/proc/self/status holds no VmHWM line; this measurement needs Linux")


if __name__ == "__main__":
    _child(sys.argv[1], Path(sys.argv[2]))

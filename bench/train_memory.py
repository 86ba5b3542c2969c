"""Recomputing activations against keeping them: time and memory of a step, each in a process of its own."""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from bench.record import Figure
from bench.training.corpus import write_corpus
from bench.training.runs import ROOT
from bench.training.workload import MICRO_BATCH, STEP_SAMPLES, workload
from vilam3.train.step import checkpoint_activations, make_optimizer, make_scheduler, train_step

WAYS = {"recomputed": True, "kept": False}
ROWS = (1, 4)
KIBIBYTE, MEGABYTE = 1024, 1_000_000


def figures() -> list[Figure]:
    """Memory is what the step's high-water mark is above the libraries, network and data; baselines are of keeping."""
    with tempfile.TemporaryDirectory(prefix="vilam3-bench-") as name:
        corpus = Path(name) / "corpus"
        write_corpus(corpus)
        found: list[Figure] = []
        for rows in ROWS:
            recomputed, kept = (_measured(corpus, rows=rows, recompute=recompute) for recompute in WAYS.values())
            label = f"{rows} rows of 4096, activations recomputed against kept"
            found += [
                Figure(name=f"step, {label}", value=recomputed["seconds"], unit="s", baseline=kept["seconds"]),
                Figure(name=f"memory, {label}", value=recomputed["mb"], unit="MB", baseline=kept["mb"]),
            ]
    return found


def _measured(corpus: Path, *, rows: int, recompute: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.train_memory", str(corpus), str(rows), str(int(recompute))]
    told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)  # noqa: S603 - our own
    measured: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return measured


def _child(corpus: Path, *, rows: int, recompute: bool) -> None:
    """One step, in seconds of the processor and megabytes."""
    torch.set_num_threads(1)
    work = workload(corpus, {"packed_rows": rows})
    model = work.loaded.model.train()
    if recompute:
        checkpoint_activations(model)
    optimizer = make_optimizer(model, work.stage)
    scheduler = make_scheduler(optimizer, work.stage, steps=work.stage.planned_steps())
    batches = work.feed.batches(0, global_batch=STEP_SAMPLES, micro_batch=MICRO_BATCH)
    before_kib, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    train_step(model, batches, optimizer=optimizer, scheduler=scheduler, gradient_clip=1.0)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = time.process_time() - began
    print(json.dumps({"seconds": seconds, "mb": (peak_kib - before_kib) * KIBIBYTE / MEGABYTE}))


if __name__ == "__main__":
    _child(Path(sys.argv[1]), rows=int(sys.argv[2]), recompute=sys.argv[3] == "1")

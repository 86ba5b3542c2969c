"""The Ray Serve application builds and answers as one process does."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tests.e2e.test_roles_real import CALL, liver
from tests.unit.experts.bundles import write_prompted
from tests.unit.serving.live import free_port
from vilam3.consultant import load
from vilam3.experts.registry import Registry
from vilam3.model.checkpoint import fresh, save
from vilam3.model.config import VilaConfig
from vilam3.model.tokenizer import train_tiny
from vilam3.objects import open_store
from vilam3.shelf import Shelf

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
READY_S = 600.0


def test_the_application_answers_and_its_experts_find_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(fresh(VilaConfig.preset("tiny"), train_tiny(["Is there a tumor? yes no"], vocab_size=600)), tmp_path / "model")
    write_prompted(tmp_path / "experts" / "vista3d")
    studies, port = f"file://{tmp_path}/studies", free_port()
    words = [str(port), str(tmp_path / "model"), str(tmp_path / "experts"), studies]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own
            [sys.executable, "-m", "tests.e2e.ray_process", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "RAY_TMPDIR": "/tmp"},  # noqa: S108 - the name of a socket must be short
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n", (tmp_path / "log").read_text()[-4000:]
        study = Shelf(open_store(studies)).put("ward", liver())
        here = Registry.load(tmp_path / "experts").run(CALL, study, slice_index=2)
        process.stdin.write(f"{study.reference}\n".encode())
        process.stdin.flush()
        there = json.loads(process.stdout.readline())
        assert (there["text"], there["weights_digest"]) == (here.text, here.provenance.weights_digest)
        answer = _ask(f"http://127.0.0.1:{port}")
        assert answer["provenance"]["model_digest"] == load(str(tmp_path / "model")).model_digest
        assert answer["usage"]["completion_tokens"] > 0
    finally:
        process.stdin.close()
        process.wait(120)
        process.stdout.close()


def _ask(url: str) -> dict[str, Any]:
    """Ask until the endpoint knows its model."""
    body = {"messages": [{"role": "user", "content": "Is there a tumor?"}], "max_tokens": 8}
    end = time.monotonic() + READY_S
    while True:
        response = httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False, timeout=120)
        if response.is_success:
            answer: dict[str, Any] = response.json()
            return answer
        assert response.status_code == 503, response.text
        assert time.monotonic() < end, response.text
        time.sleep(0.5)

"""`vilam3 serve --mode`: the same models in each form of a cluster, on this machine, with real networks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch

from serving import modes
from serving.cli import MODES
from tests.e2e.kserve_router import PORT as ROUTER_PORT
from tests.e2e.kserve_router import PROGRAM_VARIABLE
from tests.unit.experts.bundles import write_prompted
from tests.unit.serving.live import free_port
from vilam3.errors import NotFoundError
from vilam3.model.checkpoint import fresh, save
from vilam3.model.config import VilaConfig
from vilam3.model.tokenizer import train_tiny

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
READY_S = 900.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model and a tiny expert."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    save(fresh(VilaConfig.preset("tiny"), train_tiny(["Is there a tumor? yes no"], vocab_size=600)), root / "model")
    write_prompted(root / "experts" / "vista3d")
    return root


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_answers_and_leaves_no_process(models: Path, tmp_path: Path, mode: str) -> None:
    port = free_port()
    words = ["--mode", mode, "--models", str(models), "--port", str(port), "--work", str(tmp_path / "work")]
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(  # noqa: S603 - our own
            [sys.executable, "-m", "vilam3", "serve", *words],
            stdout=out,
            stderr=err,
            env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_TMPDIR": "/tmp"},  # noqa: S108 - a socket's short name
        )
    family: list[psutil.Process] = []
    try:
        answer = _asked(process, f"http://127.0.0.1:{port}", tmp_path)
        family = psutil.Process(process.pid).children(recursive=True)
        assert answer["usage"]["completion_tokens"] > 0
        if mode == "kserve":
            assert len([one for one in family if "serve" in one.cmdline()]) == 3
            _check_router(tmp_path)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0, (tmp_path / "err").read_text()[-4000:]
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    assert list((tmp_path / "work").iterdir()) == []  # nothing of a patient stays


def _asked(process: "subprocess.Popen[bytes]", url: str, folder: Path) -> dict[str, Any]:
    """Ask as soon as the program says that it is ready."""
    end = time.monotonic() + READY_S
    while f"ready: {url}" not in (folder / "out").read_text():
        assert process.poll() is None, (folder / "err").read_text()[-4000:]
        assert time.monotonic() < end, "not ready"
        time.sleep(0.5)
    body = {"messages": [{"role": "user", "content": "Is there a tumor?"}], "max_tokens": 8}
    while True:
        response = httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False, timeout=300)
        if response.is_success:
            answer: dict[str, Any] = response.json()
            return answer
        assert response.status_code == 503, response.text  # Ray's endpoint may not know its model yet
        assert time.monotonic() < end, response.text
        time.sleep(0.5)


def _check_router(folder: Path) -> None:
    """Where its program is named and its port is free, KServe's router answers over the same parts."""
    if f"ready: http://127.0.0.1:{ROUTER_PORT}/" not in (folder / "out").read_text():
        assert not os.environ.get(PROGRAM_VARIABLE)
        return
    body = {"messages": [{"role": "user", "content": "Is there a tumor?"}], "max_tokens": 8}
    end = time.monotonic() + 60
    while True:
        try:
            answer = httpx.post(f"http://127.0.0.1:{ROUTER_PORT}", json=body, trust_env=False, timeout=300)
            break
        except httpx.ConnectError:
            assert time.monotonic() < end, "the router does not listen"
            time.sleep(0.5)
    assert answer.json()["usage"]["completion_tokens"] > 0


def test_models_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="holds no model/; name a directory such as runs/latest"):
        modes.Models.below(tmp_path)

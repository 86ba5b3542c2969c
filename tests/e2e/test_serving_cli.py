"""`vilam3 serve` and `vilam3 ask` as programs, with a real (random, tiny) checkpoint."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from pydicom.data import get_testdata_file

from tests.e2e.serving_fixture import Served, served
from vilam3.model.checkpoint import fresh, save
from vilam3.model.config import VilaConfig
from vilam3.model.tokenizer import train_tiny

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny"
    save(fresh(VilaConfig.preset("tiny"), train_tiny(["Is there a tumor? yes no"], vocab_size=600)), path)
    return path


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    work = folder / "work"
    with served(folder, ["vilam3", "serve", "--model", str(model), "--port", "PORT", "--work", str(work)]) as running:
        yield running
    assert running.process.returncode == 0
    assert list(work.iterdir()) == []  # nothing of a patient stays


def vilam3(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "vilam3", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_real_dicom_file_is_asked_about_through_the_server(server: Served, model: Path, tmp_path: Path) -> None:
    image = get_testdata_file("CT_small.dcm")
    assert isinstance(image, str)
    asked = vilam3("ask", "--server", server.url, "--image", image, "Is there a tumor?", folder=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert "study     CT" in asked.stdout
    assert "Draft for a clinician" in asked.stdout
    remote = json.loads((tmp_path / "answer" / "answer.json").read_text())
    here = vilam3("ask", "--model", str(model), "--image", image, "--out", "here", "Is there a tumor?", folder=tmp_path)
    assert here.returncode == 0, here.stderr
    assert json.loads((tmp_path / "here" / "answer.json").read_text())["answer"] == remote["answer"]
    assert (
        remote["provenance"]["model_digest"]
        == httpx.get(f"{server.url}/v1/models/vilam3", trust_env=False).json()["digest"]
    )


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    asked = vilam3("ask", "--server", "http://127.0.0.1:9", "hello", folder=tmp_path)
    assert asked.returncode == 1
    assert "start one with vilam3 serve" in asked.stderr
    assert "Traceback" not in asked.stderr


def test_what_the_server_refuses_is_the_callers_to_mend(server: Served, tmp_path: Path) -> None:
    letter = tmp_path / "letter.dcm"
    letter.write_text("Dear colleague, " * 50)
    asked = vilam3("ask", "--server", server.url, "--image", str(letter), "hello", folder=tmp_path)
    assert asked.returncode == 2
    assert ".dcm" in asked.stderr


def test_serve_refuses_what_cannot_be(model: Path, server: Served, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    taken = vilam3("serve", "--model", str(model), "--port", port, folder=tmp_path)
    assert (taken.returncode, "choose another" in taken.stderr) == (2, True)
    nowhere = vilam3("serve", "--model", "nowhere", folder=tmp_path)
    assert (nowhere.returncode, "no such directory" in nowhere.stderr) == (2, True)
    everywhere = vilam3("serve", "--model", str(model), "--host", "0.0.0.0", folder=tmp_path)  # noqa: S104 - refused
    assert (everywhere.returncode, "loopback only" in everywhere.stderr) == (2, True)

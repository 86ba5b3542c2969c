"""The roles with real networks: a tiny model and a small bundle say over HTTP what they say in one process."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from tests.e2e.serving_fixture import Served, served
from tests.unit.experts.bundles import write_prompted
from vilam3.consultant import load
from vilam3.data.study import Study, Volume, study_of
from vilam3.dialogue.messages import Message, Sampling
from vilam3.experts.protocol import ExpertCall
from vilam3.experts.registry import Registry
from vilam3.model.checkpoint import fresh, save
from vilam3.model.config import VilaConfig
from vilam3.model.tokenizer import train_tiny
from vilam3.objects import open_store
from vilam3.services.engine import RemoteEngine
from vilam3.services.experts import RemoteExperts
from vilam3.shelf import Shelf

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
CALL = ExpertCall(expert="VISTA3D", argument="hepatic tumor")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    torch.manual_seed(0)
    save(fresh(VilaConfig.preset("tiny"), train_tiny(["Is there a tumor? yes no"], vocab_size=600)), folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def experts(folder: Path) -> Path:
    write_prompted(folder / "experts" / "vista3d")
    return folder / "experts"


@pytest.fixture(scope="module")
def vlm(folder: Path, model: Path) -> Iterator[Served]:
    (folder / "vlm").mkdir()
    with served(
        folder / "vlm", ["vilam3", "serve", "--role", "vlm", "--model", str(model), "--port", "PORT"]
    ) as running:
        yield running


@pytest.fixture(scope="module")
def expert(folder: Path, experts: Path) -> Iterator[Served]:
    (folder / "expert").mkdir()
    named = ["--expert", "VISTA3D", "--experts", str(experts), "--studies", f"file://{folder}/studies"]
    with served(folder / "expert", ["vilam3", "serve", "--role", "expert", *named, "--port", "PORT"]) as running:
        yield running


def liver() -> Study:
    voxels = np.zeros((12, 10, 6), np.float32)
    voxels[3:9, 3:8, 1:5] = 20
    voxels[5:7, 5:7, 2:4] = 40
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    return study_of(modality="CT", volumes=(Volume(voxels_XYZ=voxels, affine_RAS=affine, stored_axes="LPS"),))


def test_the_model_says_the_same_over_http(vlm: Served, model: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    messages = [Message(role="user", text="<image>Is there a tumor?", images=(picture,))]
    local = load(str(model))
    (here,) = local.engine.generate([messages], Sampling(max_new_tokens=24))
    with RemoteEngine(vlm.url) as remote:
        (there,) = remote.generate([messages], Sampling(max_new_tokens=24))
        card = remote.card()
    assert (there.text, there.completion_tokens) == (here.text, here.completion_tokens)
    assert (there.model_digest, card.dialect) == (local.model_digest, local.dialect)


def test_an_expert_finds_the_same_over_http(expert: Served, experts: Path, folder: Path) -> None:
    study = Shelf(open_store(f"file://{folder}/studies")).put("ward", liver())
    here = Registry.load(experts).run(CALL, study, slice_index=2)
    there = RemoteExperts({"VISTA3D": expert.url}).run(CALL, study, slice_index=2)
    assert here.overlay is not None
    assert there.overlay is not None
    assert (there.text, dict(there.colors), there.measurements) == (here.text, dict(here.colors), here.measurements)
    assert there.overlay.tobytes() == here.overlay.tobytes()
    assert there.provenance.weights_digest == here.provenance.weights_digest
    assert there.mask_reference.startswith(study.reference)


def test_an_orchestrator_needs_neither_torch_nor_monai(vlm: Served, expert: Served, folder: Path, model: Path) -> None:
    """It runs from the image that has none of them: importing them here is an error."""
    for name in ("torch", "monai", "transformers", "ray", "mlflow"):
        (folder / "absent").mkdir(exist_ok=True)
        (folder / "absent" / f"{name}.py").write_text(f"raise ImportError('{name} is not in this image')\n")
    (folder / "orchestrator").mkdir()
    named = ["--vlm", vlm.url, "--expert-url", f"VISTA3D={expert.url}", "--studies", f"file://{folder}/studies"]
    command = ["vilam3", "serve", "--role", "orchestrator", *named, "--port", "PORT"]
    with (
        served(folder / "orchestrator", command, environment={"PYTHONPATH": str(folder / "absent")}) as running,
        httpx.Client(base_url=running.url, trust_env=False, timeout=60) as client,
    ):
        stream = io.BytesIO()
        Image.new("L", (32, 32), 90).save(stream, format="PNG")
        study = client.post("/v1/studies", files={"file": ("a.png", stream.getvalue())}, data={"modality": "CT"}).json()
        image = {"type": "image_url", "image_url": {"url": f"study://{study['id']}"}}
        asked = [{"role": "user", "content": [image, {"type": "text", "text": "Is there a tumor?"}]}]
        answer = client.post("/v1/chat/completions", json={"messages": asked, "max_tokens": 16}).json()
    assert answer["provenance"]["model_digest"] == load(str(model)).model_digest
    assert answer["usage"]["completion_tokens"] > 0

"""Images to send, and the routes on a plain application: these tests need no KServe and no process."""

import io
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from serving.answer import Service
from serving.app import install
from serving.tenants import Tenants
from tests.unit.serving.fakes import RuleEngine, SlowExperts
from vilam3.consultant import Consultant


@pytest.fixture(scope="session")
def png() -> bytes:
    """A small radiograph."""
    stream = io.BytesIO()
    Image.fromarray(np.arange(48 * 40, dtype=np.uint8).reshape(48, 40)).save(stream, format="PNG")
    return stream.getvalue()


@pytest.fixture(scope="session")
def volume(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small CT as .nii.gz, stored left-right flipped against RAS."""
    path = tmp_path_factory.mktemp("volume") / "ct.nii.gz"
    voxels = np.linspace(-1000, 400, 8 * 9 * 6).reshape(8, 9, 6).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([-2.0, 2.0, 3.0, 1.0])), path)
    return path.read_bytes()


@pytest.fixture
def engine() -> RuleEngine:
    return RuleEngine()


@pytest.fixture
def experts() -> SlowExperts:
    return SlowExperts()


@pytest.fixture
def service(engine: RuleEngine, experts: SlowExperts, tmp_path: Path) -> Iterator[Service]:
    """A service with one tenant."""
    consultant = Consultant(engine=engine, experts=experts, model_digest="d" * 64)
    made = Service.create(consultant, tenants=Tenants(), work=tmp_path)
    yield made
    made.close()


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    """The routes, called in this process."""
    app = FastAPI()
    install(app, service)
    with TestClient(app, raise_server_exceptions=False) as made:
        yield made

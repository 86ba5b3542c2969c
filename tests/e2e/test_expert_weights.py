"""Expert bundles from where they are kept: a directory, or a real S3 server, one loader for both."""

from pathlib import Path

import boto3
import numpy as np
import pytest

from tests.e2e.s3_server import s3_server
from tests.unit.experts.bundles import write_small
from vilam3.data.study import Volume
from vilam3.errors import NotFoundError
from vilam3.experts.bundle import Bundle
from vilam3.objects import open_store
from vilam3.weights import experts_at

pytestmark = pytest.mark.e2e
BUCKET = "weights"


def test_bundles_come_from_a_directory_or_from_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of experts, and one bundle by its own address; the same labels from each."""
    here = write_small(tmp_path / "experts" / "vista3d")
    voxels = np.random.default_rng(0).normal(50, 80, (12, 12, 8)).astype(np.float32)
    image = Volume(voxels_XYZ=voxels, affine_RAS=np.diag([2.0, 2.0, 3.0, 1.0]))
    true = Bundle.open(experts_at(str(tmp_path / "experts"), tmp_path) / "vista3d").segment([image])
    with s3_server(tmp_path / "s3") as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        boto3.session.Session().client("s3").create_bucket(Bucket=BUCKET)
        store = open_store(f"s3://{BUCKET}/all")
        for path in here.rglob("*"):
            if path.is_file():
                store.put(f"experts/vista3d/{path.relative_to(here).as_posix()}", path)
        for place in (f"s3://{BUCKET}/all/experts", f"s3://{BUCKET}/all/experts/vista3d"):
            root = experts_at(place, tmp_path / place.rpartition("/")[2])
            assert np.array_equal(Bundle.open(root / "vista3d").segment([image]), true), place
        with pytest.raises(NotFoundError, match="nothing is there"):
            experts_at(f"s3://{BUCKET}/all/none", tmp_path / "none")

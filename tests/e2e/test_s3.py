"""The study store on a real S3 server that checks signatures."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import httpx
import nibabel as nib
import numpy as np
import pytest

from tests.e2e.s3_server import S3, s3_server
from tests.e2e.serving_fixture import Served, served
from tests.e2e.test_roles import expert_command, orchestrator_command, question, uploaded
from tests.unit.data import dicom_files as make
from vilam3.data.intake import read_study
from vilam3.data.limits import Limits
from vilam3.data.study import Study, Volume, study_of
from vilam3.errors import ArtifactError, DataError, NotFoundError, TooLargeError
from vilam3.objects import ObjectStore, open_store
from vilam3.s3 import S3Store
from vilam3.shelf import Bounds, Shelf, drop_oldest
from vilam3.sources.images import Sources
from vilam3.sources.permits import Permits
from vilam3.weights import fetch

pytestmark = pytest.mark.e2e
BUCKET = "hospital"
URI = f"s3://{BUCKET}/vilam3"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment().items():
            patch.setenv(name, value)
        boto3.session.Session().client("s3").create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture
def store(s3: S3, request: pytest.FixtureRequest) -> ObjectStore:
    assert s3.endpoint
    return open_store(f"{URI}/{request.node.name}")


def test_weights_are_fetched_whole(s3: S3, tmp_path: Path) -> None:
    """As the init container of a serving pod does it."""
    kept = open_store(f"{URI}/models")
    kept.put("tiny/config.json", b"{}")
    kept.put("tiny/llm/model.safetensors", bytes(9_000_000))
    kept.put("tiny-other/config.json", b"another model")
    assert fetch(f"{URI}/models/tiny", tmp_path / "tiny") == 9_000_002
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"tiny/config.json", "tiny/llm/model.safetensors"}
    with pytest.raises(NotFoundError, match="nothing is there"):
        fetch(f"{URI}/models/none", tmp_path / "none")
    assert s3.endpoint


def ct(fill: int = 0) -> Study:
    random = np.random.default_rng(fill).integers(-1000, 1000, (64, 64, 40)).astype(np.float32)
    return study_of(modality="CT", volumes=(Volume(voxels_XYZ=random, affine_RAS=np.eye(4)),))


def test_readers_of_an_object_that_many_write_get_one_of_them_whole(s3: S3, store: ObjectStore) -> None:
    """Or none, while others remove it; nothing else comes of any mixture of calls."""
    if not s3.is_atomic:
        pytest.skip("this file system keeps no attributes, so the S3 server mixes up what two write at once")
    first, second = b"x" * 500, b"y" * 700
    calls: list[Callable[[], object]] = [
        lambda: store.put("one", first),
        lambda: store.put("one", second),
        lambda: store.put_new("one", first),
        lambda: store.get("one"),
        lambda: store.get("one"),
        lambda: store.delete("one"),
        lambda: list(store.entries("one")),
    ]

    def told(call: Callable[[], object]) -> object:
        with contextlib.suppress(NotFoundError):
            return call()
        return None

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(told, calls * 200))
    assert {answer for answer in answers if isinstance(answer, bytes)} <= {first, second}


def test_objects_are_put_listed_copied_and_removed(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 9_000_000)  # large enough that it goes up in parts
    store.put("a/file", tmp_path / "file")
    store.put("a/small", b"1")
    store.put("a/small", b"22")
    store.copy("a/small", "b/small")
    assert (len(store.get("a/file")), store.get("b/small")) == (9_000_000, b"22")
    listed = {entry.key: entry.num_bytes for entry in store.entries("a")}
    assert listed == {"a/file": 9_000_000, "a/small": 2}
    store.delete("a")
    store.delete("a")
    assert list(store.entries("a")) == []
    assert store.get("b/small") == b"22"
    for key in ("a/small", "../b", "never"):
        with pytest.raises(NotFoundError):
            store.get(key)
    with pytest.raises(NotFoundError):
        store.copy("never", "c")


def test_two_processes_see_the_same_studies_and_bounds_hold(store: ObjectStore) -> None:
    first = Shelf(store).put("ward", ct())
    back = Shelf(store).get(first.reference)
    assert back.digest == first.digest
    second = Shelf(store).put("ward", ct(1))
    dropped = drop_oldest(store, "studies", Bounds(max_count=1))
    assert len(dropped) == 1
    left = {first.reference, second.reference} - set(dropped)
    assert {entry.key for entry in store.entries("tenants")} == {f"{reference}/study.zip" for reference in left}


def test_images_are_read_from_listed_places_alone(s3: S3, tmp_path: Path) -> None:
    """One object, or all files of a study below a prefix."""
    assert s3.endpoint
    client = boto3.session.Session().client("s3")
    voxels_KHW = np.arange(4 * 6 * 5, dtype=np.int16).reshape(4, 6, 5)
    for path in make.series(tmp_path / "series", voxels_KHW).iterdir():
        client.upload_file(str(path), BUCKET, f"inbox/ct/{path.name}")
    client.put_object(Bucket=BUCKET, Key="inbox/one.nii", Body=_nifti())
    client.put_object(Bucket=BUCKET, Key="private/one.nii", Body=_nifti())
    sources = Sources(permits=Permits(buckets=(f"{BUCKET}/inbox",)))

    def study(key: str, limits: Limits) -> Study:
        folder = tmp_path / key.replace("/", "_")
        folder.mkdir()
        return read_study(sources.fetch(f"s3://{BUCKET}/{key}", folder, limits=limits, where="image_url 1"))

    assert (study("inbox/ct", Limits()).num_slices, study("inbox/one.nii", Limits()).num_slices) == (4, 6)
    with pytest.raises(DataError, match="let the operator list it in VILAM3_IMAGE_BUCKETS"):
        study("private/one.nii", Limits())
    with pytest.raises(NotFoundError, match="nothing below it"):
        study("inbox/none", Limits())
    with pytest.raises(TooLargeError, match="4 files"):
        sources.fetch(f"s3://{BUCKET}/inbox/ct/", tmp_path / "many", limits=Limits(max_files=3), where="x")


def test_a_wrong_secret_is_refused_with_its_remedy(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3.secret_key
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ArtifactError, match=r"refused \(SignatureDoesNotMatch\); check the bucket, AWS_ACCESS_KEY_ID"):
        S3Store(BUCKET).put("a", b"1")


def test_a_missing_bucket_and_a_dead_endpoint_are_told_apart(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3.endpoint
    with pytest.raises(ArtifactError, match=r"refused \(NoSuchBucket\)"):
        S3Store("absent").put("a", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("vilam3.s3.ATTEMPTS", 1)
    with pytest.raises(ArtifactError, match="out of reach"):
        S3Store(BUCKET).put("a", b"1")


def test_orchestrator_and_expert_share_studies_by_s3(s3: S3, tmp_path: Path) -> None:
    """What is uploaded to one orchestrator can be asked about at another."""
    volume = _nifti()
    with contextlib.ExitStack() as running, httpx.Client(trust_env=False, timeout=60) as client:

        def start(name: str, command: list[str]) -> Served:
            (tmp_path / name).mkdir()
            return running.enter_context(served(tmp_path / name, command, environment=s3.environment()))

        vlm = start("vlm", ["tests.e2e.serving_process", "PORT", "--role", "vlm", "--studies", URI])
        expert = start("expert", expert_command("VISTA3D", URI))
        command = orchestrator_command(vlm, {"VISTA3D": expert}, URI)
        one, other = start("one", command), start("other", command)
        study = uploaded(client, one, volume)
        answer = client.post(f"{other.url}/v1/chat/completions", json=question(study["id"])).json()
        assert answer["answer"] == "yes"
        mask = client.get(one.url + answer["expert_calls"][0]["mask_url"])
        assert mask.content.startswith(b"\x1f\x8b")
        assert client.delete(f"{other.url}/v1/studies/{study['id']}").status_code == 200
        assert client.get(f"{one.url}/v1/studies/{study['id']}").status_code == 404
        logged = "".join(path.read_text() for path in tmp_path.rglob("err"))
        assert s3.secret_key not in logged


def _nifti() -> bytes:
    image = nib.Nifti1Image(np.zeros((8, 10, 6), np.int16), np.eye(4))
    content: bytes = image.to_bytes()
    return content

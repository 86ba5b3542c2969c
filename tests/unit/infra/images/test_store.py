"""Images as files: names, archives whole and thin, and nothing kept that no image has."""

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from infra.images.store import CONTAINERD_NAME, NAME, Store
from vilam3.errors import NotFoundError

ENVIRONMENT, PROGRAM = "localhost/environment:1", "localhost/program:1"


def _blob(store: Store, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    place = store.root / "blobs" / "sha256" / digest
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def _image(store: Store, layers: list[bytes]) -> dict[str, Any]:
    kept = [_blob(store, layer) for layer in layers]
    config = _blob(store, json.dumps({"rootfs": {"diff_ids": [layer["digest"] for layer in kept]}}).encode())
    return _blob(store, json.dumps({"config": config, "layers": kept}).encode())


def _index(store: Store, images: dict[str, dict[str, Any]]) -> None:
    named = [descriptor | {"annotations": {NAME: name}} for name, descriptor in images.items()]
    (store.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": named}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two images, one on the other."""
    made = Store(tmp_path / "store")
    heavy, light = b"libraries" * 1000, b"ours"
    _index(made, {ENVIRONMENT: _image(made, [heavy]), PROGRAM: _image(made, [heavy, light])})
    return made


def _members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened}  # type: ignore[union-attr] # all are files


def test_an_archive_holds_one_image_under_the_name_that_a_node_knows(store: Store, tmp_path: Path) -> None:
    members = _members(store.write_archive(PROGRAM, out=tmp_path / "program.tar"))
    (manifest,) = json.loads(members["index.json"])["manifests"]
    assert manifest["annotations"] == {NAME: PROGRAM, CONTAINERD_NAME: PROGRAM}
    blobs = {name.rpartition("/")[2]: content for name, content in members.items() if name.startswith("blobs/")}
    assert all(hashlib.sha256(content).hexdigest() == digest for digest, content in blobs.items())
    assert {f"sha256:{digest}" for digest in blobs} >= {manifest["digest"], *store.layers(PROGRAM)}


def test_a_thin_archive_leaves_out_what_the_node_has(store: Store, tmp_path: Path) -> None:
    members = _members(store.write_archive(PROGRAM, out=tmp_path / "thin.tar", without=ENVIRONMENT))
    shared, own = store.layers(PROGRAM)
    assert f"blobs/{shared.replace(':', '/')}" not in members
    assert members[f"blobs/{own.replace(':', '/')}"] == b"ours"


def test_the_same_image_makes_the_same_archive(store: Store, tmp_path: Path) -> None:
    one, other = (store.write_archive(PROGRAM, out=tmp_path / name) for name in ("one.tar", "other.tar"))
    assert one.read_bytes() == other.read_bytes()


def test_removing_an_image_keeps_what_others_have(store: Store) -> None:
    shared, own = store.layers(PROGRAM)
    store.remove(PROGRAM)
    assert store.has(ENVIRONMENT)
    assert not store.has(PROGRAM)
    kept = {blob.name for blob in (store.root / "blobs" / "sha256").iterdir()}
    assert shared.partition(":")[2] in kept
    assert own.partition(":")[2] not in kept


def test_what_an_image_was_before_it_was_built_anew_is_not_kept(store: Store) -> None:
    """Skopeo leaves the earlier manifest in the index, without its name."""
    (old,) = store.layers(ENVIRONMENT)
    index = json.loads((store.root / "index.json").read_text())
    index["manifests"] = [{"digest": one["digest"], "size": one["size"]} for one in index["manifests"]]
    new = _image(store, [b"other libraries"]) | {"annotations": {NAME: ENVIRONMENT}}
    (store.root / "index.json").write_text(json.dumps(index | {"manifests": [*index["manifests"], new]}))
    store.prune()
    assert store.names() == [ENVIRONMENT]
    blobs = {f"sha256:{blob.name}" for blob in (store.root / "blobs" / "sha256").iterdir()}
    assert old not in blobs
    assert blobs >= {new["digest"], *store.layers(ENVIRONMENT)}


def test_an_image_that_is_not_kept_is_the_callers_mistake(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="make image"):
        store.write_archive("localhost/other:1", out=tmp_path / "other.tar")
    assert not (tmp_path / "other.tar").exists()
    assert not Store(tmp_path / "nothing").has(PROGRAM)


def test_what_a_build_took_is_kept_for_each_image(store: Store) -> None:
    store.note(PROGRAM, wall_s=2.0, cpu_s=1.0)
    store.note(ENVIRONMENT, wall_s=60.0, cpu_s=50.0)
    assert store.notes() == {PROGRAM: {"wall_s": 2.0, "cpu_s": 1.0}, ENVIRONMENT: {"wall_s": 60.0, "cpu_s": 50.0}}

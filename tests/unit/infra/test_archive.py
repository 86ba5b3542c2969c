"""An image archive holds what its digests say, and is the same whenever it is written."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from infra.cluster.archive import Image, write


@pytest.fixture
def archive(tmp_path: Path) -> dict[str, bytes]:
    """The members of an archive of one program."""
    return _members(write(_image(tmp_path), out=tmp_path / "image.tar"))


def test_every_blob_has_the_digest_that_names_it(archive: dict[str, bytes]) -> None:
    blobs = {name: content for name, content in archive.items() if name.startswith("blobs/")}
    assert len(blobs) == 3
    assert all(hashlib.sha256(content).hexdigest() == Path(name).name for name, content in blobs.items())


def test_the_image_is_known_by_its_full_name(archive: dict[str, bytes]) -> None:
    (manifest,) = json.loads(archive["index.json"])["manifests"]
    assert set(manifest["annotations"].values()) == {"docker.io/vilam3/tool:1"}


def test_it_starts_the_program_as_nobody(archive: dict[str, bytes]) -> None:
    config = json.loads(_blob(archive, _manifest(archive)["config"]["digest"]))
    assert config["config"]["Entrypoint"] == ["/bin/tool"]
    assert config["config"]["User"] == "65532:65532"


def test_the_layer_holds_files_links_and_a_folder_to_write_to(archive: dict[str, bytes]) -> None:
    (layer,) = _manifest(archive)["layers"]
    with tarfile.open(fileobj=io.BytesIO(_blob(archive, layer["digest"]))) as members:
        told = {member.name: (member.mode, member.linkname) for member in members.getmembers()}
    assert told == {"bin": (0o755, ""), "tmp": (0o1777, ""), "bin/tool": (0o755, ""), "bin/sh": (0o644, "tool")}


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    first = write(_image(tmp_path), out=tmp_path / "a.tar").read_bytes()
    assert write(_image(tmp_path), out=tmp_path / "b.tar").read_bytes() == first


def _image(folder: Path) -> Image:
    program = folder / "program"
    program.write_bytes(b"\x7fELF")
    return Image(
        name="docker.io/vilam3/tool:1",
        files={"/bin/tool": program},
        links={"/bin/sh": "tool"},
        entrypoint=["/bin/tool"],
    )


def _members(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as archive:
        opened = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        return {name: stream.read() for name, stream in opened.items() if stream is not None}


def _manifest(archive: dict[str, bytes]) -> dict[str, Any]:
    (manifest,) = json.loads(archive["index.json"])["manifests"]
    return dict(json.loads(_blob(archive, manifest["digest"])))


def _blob(archive: dict[str, bytes], digest: str) -> bytes:
    return archive[f"blobs/sha256/{digest.removeprefix('sha256:')}"]

"""Images as files: one OCI layout that keeps what was built, and the archives that are made of it.

Layers lie in it uncompressed and each once, so that images on the same environment cost a few megabytes each, and an
archive for a node that has the environment already need not carry it again.
"""

import fcntl
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from vilam3.artifacts import whole_file, write_json
from vilam3.errors import NotFoundError

NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
TOOK = "build-times.json"
LAYOUT = {"imageLayoutVersion": "1.0.0"}


@dataclass(frozen=True, slots=True)
class Store:
    """An OCI layout in the folder `root`; a reference in it is the whole name of an image."""

    root: Path

    def create(self) -> None:
        """Make the folder."""
        self.root.mkdir(parents=True, exist_ok=True)

    def has(self, name: str) -> bool:
        """Whether the image is kept here."""
        return any(_name(descriptor) == name for descriptor in self._manifests())

    def names(self) -> list[str]:
        """Of all images that are kept here."""
        return [_name(descriptor) for descriptor in self._manifests()]

    def digest(self, name: str) -> str:
        """Of its manifest, by which a node that has the image knows it too."""
        return str(self._find(name)["digest"])

    def size_bytes(self, name: str) -> int:
        """Of all layers, uncompressed."""
        return sum(int(layer["size"]) for layer in self._read(self._find(name))["layers"])

    def layers(self, name: str) -> list[str]:
        """Digests of its layers, lowest first."""
        return [str(layer["digest"]) for layer in self._read(self._find(name))["layers"]]

    def write_archive(self, name: str, *, out: Path, without: str = "") -> Path:
        """Write one image as an OCI archive that ``ctr images import`` and ``kind load image-archive`` take.

        Args:
            name: The image.
            out: Where to.
            without: An image that the importing node has; the layers that they share are left out.

        Raises:
            NotFoundError: One of the two is not kept here.
        """
        self._find(name)
        with whole_file(out, durable=False) as part, part.open("wb") as stream:
            self.stream_archive(name, into=stream, without=without)
        return out

    def stream_archive(self, name: str, *, into: IO[bytes], without: str = "") -> None:
        """Write the archive into a stream, such as a pipe to the program that imports it."""
        manifest = self._find(name)
        left_out = set(self.layers(without)) if without else set()
        named = manifest | {"annotations": {NAME: name, CONTAINERD_NAME: name}}
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [named]}
        with self.alone(), tarfile.open(fileobj=into, mode="w|") as archive:
            _add(archive, "oci-layout", LAYOUT)
            _add(archive, "index.json", index)
            for digest in dict.fromkeys(self._reachable(manifest)):
                if digest not in left_out:
                    blob = self._blob(digest)
                    archive.add(blob, arcname=str(blob.relative_to(self.root)), filter=_without_owner)

    def note(self, name: str, **took: float) -> None:
        """Keep what building the image took."""
        with self.alone():
            write_json(self.root / TOOK, self.notes() | {name: took})

    def notes(self) -> dict[str, dict[str, float]]:
        """What building each image took, the last time."""
        file = self.root / TOOK
        return json.loads(file.read_bytes()) if file.exists() else {}

    def remove(self, name: str) -> None:
        """Forget the image, and its blobs that no other has."""
        with self.alone():
            self._keep(lambda descriptor: _name(descriptor) != name)
            write_json(self.root / TOOK, {other: took for other, took in self.notes().items() if other != name})
            self.prune()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One at a time: what one has written and not yet named, another would prune."""
        self.create()
        with (self.root / ".lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def prune(self) -> None:
        """Remove what images were that have been built anew since; for who is `alone`.

        Of an image whose name was given to another, skopeo keeps the manifest without the name.
        """
        self._keep(lambda descriptor: bool(_name(descriptor)))
        kept = {self._blob(digest) for descriptor in self._manifests() for digest in self._reachable(descriptor)}
        for blob in (self.root / "blobs" / "sha256").glob("*"):
            if blob not in kept:
                blob.unlink()

    def _keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        index = json.loads((self.root / "index.json").read_bytes())
        index["manifests"] = [descriptor for descriptor in index["manifests"] if wanted(descriptor)]
        write_json(self.root / "index.json", index)

    def _find(self, name: str) -> dict[str, Any]:
        for descriptor in self._manifests():
            if _name(descriptor) == name:
                return descriptor
        raise NotFoundError(f"image {name}: not in {self.root}; build it: make image")

    def _manifests(self) -> list[dict[str, Any]]:
        index = self.root / "index.json"
        return json.loads(index.read_bytes())["manifests"] if index.exists() else []

    def _reachable(self, manifest: dict[str, Any]) -> Iterator[str]:
        content = self._read(manifest)
        yield manifest["digest"]
        yield content["config"]["digest"]
        yield from (layer["digest"] for layer in content["layers"])

    def _read(self, descriptor: dict[str, Any]) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._blob(descriptor["digest"]).read_bytes())
        return content

    def _blob(self, digest: str) -> Path:
        return self.root / "blobs" / Path(*digest.split(":", 1))


def _name(descriptor: dict[str, Any]) -> str:
    return str(descriptor.get("annotations", {}).get(NAME, ""))


def _add(archive: tarfile.TarFile, name: str, value: object) -> None:
    content = json.dumps(value, sort_keys=True).encode()
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, BytesIO(content))


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member

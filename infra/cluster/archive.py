"""Container images of one static program, written as OCI archives without a container tool; nothing else is in them."""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vilam3.artifacts import whole_file

OCI = "application/vnd.oci.image"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
NOBODY = 65532  # a user that owns nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What an image holds and how it starts.

    Attributes:
        name: Full reference, such as ``docker.io/vilam3/pause:1``.
        files: Path in the image: file of this machine.
        links: Path in the image: path in the image that it stands for.
        entrypoint: The program and its fixed arguments.
        folders: Empty folders that anybody may write to.
        user: Who runs it.
    """

    name: str
    files: dict[str, Path]
    entrypoint: Sequence[str]
    links: dict[str, str] = field(default_factory=dict)
    folders: Sequence[str] = field(default=("/tmp",))  # noqa: S108 - of the image
    user: int = NOBODY


def write(image: Image, *, out: Path) -> Path:
    """Write `image` as an OCI archive to `out`, the same bytes for the same files, and return it."""
    layer = _layer(image)
    config = _json(_config(image, layer=layer))
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": _descriptor(config, kind="config.v1+json"),
            "layers": [_descriptor(layer, kind="layer.v1.tar")],
        }
    )
    named = _descriptor(manifest, kind="manifest.v1+json") | {
        "annotations": {"org.opencontainers.image.ref.name": image.name, "io.containerd.image.name": image.name}
    }
    index = _json({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [named]})
    members = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": index}
    members |= {f"blobs/sha256/{_sha256(blob)}": blob for blob in (layer, config, manifest)}
    with whole_file(out, durable=False) as part, tarfile.open(part, "w") as archive:
        for name, content in members.items():
            _add(archive, name, content=content, mode=0o644)
    return out


def _config(image: Image, *, layer: bytes) -> dict[str, Any]:
    return {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {
            "Entrypoint": list(image.entrypoint),
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "User": f"{image.user}:{image.user}",
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(layer)}"]},
    }


def _layer(image: Image) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as layer:
        parents = {parent for name in image.files for parent in PurePosixPath(name).parents} - {PurePosixPath("/")}
        for folder in sorted(str(parent) for parent in parents):
            _add_folder(layer, folder, mode=0o755)
        for folder in image.folders:
            _add_folder(layer, folder, mode=0o1777)
        for name, file in sorted(image.files.items()):
            _add(layer, name.lstrip("/"), content=file.read_bytes(), mode=0o755)
        for name, target in sorted(image.links.items()):
            _add_link(layer, name, target=target)
    return stream.getvalue()


def _add(archive: tarfile.TarFile, name: str, *, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))


def _add_folder(archive: tarfile.TarFile, name: str, *, mode: int) -> None:
    member = tarfile.TarInfo(name.lstrip("/"))
    member.type, member.mode = tarfile.DIRTYPE, mode
    archive.addfile(member)


def _add_link(archive: tarfile.TarFile, name: str, *, target: str) -> None:
    member = tarfile.TarInfo(name.lstrip("/"))
    member.type, member.linkname = tarfile.SYMTYPE, target
    archive.addfile(member)


def _descriptor(blob: bytes, *, kind: str) -> dict[str, Any]:
    return {"mediaType": f"{OCI}.{kind}", "digest": f"sha256:{_sha256(blob)}", "size": len(blob)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _sha256(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()

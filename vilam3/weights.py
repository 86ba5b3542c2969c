"""Brings a model's or an expert's files from where they are kept to a local directory, whole or not at all.

A container asks for them before it serves; where KServe fetches them itself, this is not needed.
"""

from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from vilam3.artifacts import whole_directory
from vilam3.errors import NotFoundError, UserError
from vilam3.objects import open_store

REGISTERED = "models:/"
SIGNS = ("configs/metadata.json", "ensemble.json")  # of one expert, as opposed to a directory of them


def fetch(source: str, out: Path) -> int:
    """Write everything below `source` to `out`, which is replaced only when all of it is there.

    Args:
        source: ``s3://bucket/folder``, ``file:///folder``, or ``models:/name@alias`` of the tracking store.
        out: Directory to write.

    Returns:
        How many bytes came.

    Raises:
        UserError: the source is not understood.
        NotFoundError: there is nothing there, or no such version.
        ArtifactError: the store refuses or is out of reach.
        TrackingError: the tracking store refused or is out of reach.
    """
    place = _source_of(source) if source.startswith(REGISTERED) else source
    parts = urlsplit(place)
    folder = PurePosixPath(unquote(parts.path).strip("/"))
    if parts.scheme not in {"s3", "file"} or not folder.name:
        raise UserError(f"{place}: not a place of weights; write s3://bucket/folder or file:///folder")
    above = "" if str(folder.parent) == "." else f"/{folder.parent}"
    store = open_store(f"{parts.scheme}://{parts.netloc}{above or '/'}")
    entries = list(store.entries(folder.name))
    if not entries:
        raise NotFoundError(f"{place}: nothing is there; check the bucket and the path")
    with whole_directory(out) as partial:
        for entry in entries:
            path = partial / PurePosixPath(entry.key).relative_to(folder.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            store.save(entry.key, path)
    return sum(entry.num_bytes for entry in entries)


def experts_at(place: str, work: Path) -> Path:
    """The local directory of experts, brought from where it is kept unless it is here.

    Args:
        place: A directory, or what `fetch` takes: of experts, or one bundle, which keeps the name it has there.
        work: Where to bring it.

    Raises:
        UserError: as `fetch`, and NotFoundError, ArtifactError and TrackingError.
    """
    if "://" not in place and not place.startswith(REGISTERED):
        return Path(place)
    name = PurePosixPath(urlsplit(place).path.partition("@")[0]).name
    brought = work / "experts"
    fetch(place, brought / name)
    is_bundle = any((brought / name / sign).is_file() for sign in SIGNS)
    return brought if is_bundle else brought / name


def _source_of(uri: str) -> str:
    """Where the weights of a registered version are kept."""
    from vilam3.consultant import registered  # noqa: PLC0415 - torch takes seconds to import
    from vilam3.workplace import runs_folder  # noqa: PLC0415 - likewise

    return registered(uri, runs=runs_folder()).source

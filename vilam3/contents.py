"""What lies behind the places that a run is given: digests of contents, since a place may be written anew.

A cache that goes by names, such as KFP's, serves old results for new data; these digests are put into its keys.
"""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from vilam3.data.shards import MANIFEST
from vilam3.errors import DataError, NotFoundError
from vilam3.objects import open_store
from vilam3.train.record import digest_of

READABLE = frozenset({"", "file", "s3"})


def corpus_digest(place: str) -> str:
    """What a prepared corpus says of itself.

    Args:
        place: A path, ``file://`` or ``s3://``.

    Raises:
        DataError: there is no corpus, or its manifest states no digest.
        ArtifactError: the store refuses or is out of reach.
    """
    return str(corpus_manifest(place)["digest"])


def corpus_manifest(place: str) -> Mapping[str, Any]:
    """All that a prepared corpus says of itself, its digest at least; `place` and errors as of `corpus_digest`."""
    try:
        manifest: dict[str, Any] = json.loads(read(place, MANIFEST))
        manifest["digest"] = str(manifest["digest"])
    except NotFoundError as error:
        raise DataError(f"corpus {place}: has no {MANIFEST}; give the place of a prepared corpus") from error
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"corpus {place}: {MANIFEST} states no digest; prepare the corpus again") from error
    return manifest


def check_corpus(place: str, digest: str) -> None:
    """See that a corpus is the one that is meant.

    Raises:
        DataError: it is another, or there is none.
        ArtifactError: the store refuses or is out of reach.
    """
    found = corpus_digest(place)
    if found != digest:
        raise DataError(
            f"corpus_digest={digest}: the corpus at {place} is {found}; give that, leave it empty for whichever is "
            "there, or give the place of the one you mean"
        )


def contents_of(places: Mapping[str, str]) -> str:
    """A digest that changes whenever anything below one of the places is written anew.

    Names, sizes and times are what it goes by, so that nothing is fetched. A place that only KFP can read has contents
    that nobody knows: it gets another digest each time.

    Args:
        places: By what they are, such as ``corpus``; empty ones are nothing.

    Raises:
        DataError: there is nothing at a place.
        ArtifactError: the store refuses or is out of reach.
    """
    return digest_of({name: _contents(name, place) for name, place in places.items() if place})


def listing(place: str) -> list[tuple[str, int, float]]:
    """Names, sizes and times of all files at a place; empty where there is nothing.

    Raises:
        UserError: the place is not understood.
        ArtifactError: the store refuses or is out of reach.
    """
    folder = local_folder(place)
    if folder is not None:
        files = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
        return [(path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime) for path, stat in files]
    parts = urlsplit(place)
    above, _, name = parts.path.strip("/").rpartition("/")
    entries = open_store(f"{parts.scheme}://{parts.netloc}/{above}").entries(name or "none")
    return sorted((one.key, one.num_bytes, one.modified_s) for one in entries)


def read(place: str, name: str) -> bytes:
    """A file at a place.

    Raises:
        NotFoundError: it is not there.
        UserError: the place is not understood.
        ArtifactError: the store refuses or is out of reach.
    """
    folder = local_folder(place)
    if folder is None:
        return open_store(place).get(name)
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise NotFoundError(f"{folder / name}: cannot be read ({error.strerror}); check the path") from error


def local_folder(place: str) -> Path | None:
    """Where a place is on this machine; None where it is in a store."""
    if "://" not in place:
        return Path(place)
    parts = urlsplit(place)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _contents(name: str, place: str) -> list[tuple[str, int, float]]:
    if urlsplit(place).scheme not in READABLE:
        return [(uuid.uuid4().hex, 0, 0.0)]
    if found := listing(place):
        return found
    raise DataError(f"{name} {place}: there is nothing; give the place of what was prepared or trained")

"""What lies behind the places that a run is given: digests of contents, since a place may be written anew.

A cache that goes by names, such as KFP's, serves old results for new data; these digests are put into its keys.
"""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vilam3.errors import DataError, NotFoundError
from vilam3.objects import Entry, open_store
from vilam3.train.record import digest_of

READABLE = frozenset({"", "file", "s3"})
CORPUS_MANIFEST = "corpus.json"


def corpus_digest(place: str) -> str:
    """What a prepared corpus says of itself.

    Args:
        place: A path, ``file://`` or ``s3://``.

    Raises:
        DataError: there is no corpus, or its manifest states no digest.
        ArtifactError: the store refuses or is out of reach.
    """
    try:
        manifest = json.loads(_read(place, CORPUS_MANIFEST))
        return str(manifest["digest"])
    except (NotFoundError, FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"corpus {place}: has no {CORPUS_MANIFEST}; give the place of a prepared corpus") from error
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"corpus {place}: {CORPUS_MANIFEST} states no digest; prepare the corpus again") from error


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


def _contents(name: str, place: str) -> list[tuple[str, int, float]]:
    if urlsplit(place).scheme not in READABLE:
        return [(uuid.uuid4().hex, 0, 0.0)]
    above, _, last = place.rstrip("/").rpartition("/")
    is_local = urlsplit(place).scheme != "s3"
    found = _listed(_path(place)) if is_local else sorted(map(_as_tuple, open_store(above).entries(last)))
    if not found:
        raise DataError(f"{name} {place}: there is nothing; give the place of what was prepared or trained")
    return found


def _listed(folder: Path) -> list[tuple[str, int, float]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime) for path in files]


def _as_tuple(entry: Entry) -> tuple[str, int, float]:
    return entry.key, entry.num_bytes, entry.modified_s


def _read(place: str, name: str) -> bytes:
    return open_store(place).get(name) if urlsplit(place).scheme == "s3" else (_path(place) / name).read_bytes()


def _path(place: str) -> Path:
    parts = urlsplit(place)
    return Path(unquote(parts.path)) if parts.scheme == "file" else Path(place)

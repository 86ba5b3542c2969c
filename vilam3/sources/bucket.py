"""Images from an S3 bucket that is listed: one object, or all below a prefix. Endpoint and keys: the AWS variables."""

from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from vilam3.data.limits import Limits
from vilam3.errors import DataError, NotFoundError
from vilam3.s3 import S3Store
from vilam3.sources.permits import BUCKETS_VARIABLE, Permits


def download(uri: str, folder: Path, *, permits: Permits, limits: Limits, where: str) -> Path:
    """Write what an ``s3://bucket/key`` names below a folder; gives the file, or the folder of several.

    Raises:
        DataError: it is not permitted.
        NotFoundError: there is nothing there.
        TooLargeError: beyond the limits.
        ArtifactError: the store refuses or is out of reach.
    """
    bucket, key = _place(uri, permits, where)
    store = S3Store(bucket)
    size = store.size(key)
    if size is not None:
        limits.check_bytes(size, where=where)
        target = folder / PurePosixPath(key).name
        store.save(key, target)
        return target
    entries = list(store.entries(key))
    if not entries:
        raise NotFoundError(f"{where}: there is no such object and nothing below it; check the bucket and the key")
    limits.check_files(len(entries), where=where)
    limits.check_bytes(max(1, sum(entry.num_bytes for entry in entries)), where=where)
    for entry in entries:
        target = folder / PurePosixPath(entry.key).relative_to(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        store.save(entry.key, target)
    return folder


def _place(uri: str, permits: Permits, where: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    key = unquote(parts.path).strip("/")
    if not parts.netloc or not key or parts.query or parts.fragment or ".." in PurePosixPath(key).parts:
        raise DataError(f"{where}: not a place in a bucket; write s3://bucket/key")
    if not permits.allows_object(parts.netloc, key):
        raise DataError(
            f"{where}: this server reads nothing of that place in the bucket {parts.netloc}; let the operator list it "
            f"in {BUCKETS_VARIABLE}"
        )
    return parts.netloc, key

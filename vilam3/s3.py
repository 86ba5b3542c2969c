"""Objects in an S3 bucket, by boto3; imported only where a place is in one, because boto3 takes a while to import.

The client itself repeats requests that found no answer. Two things it leaves to its caller: a body that breaks off or
does not fit its checksum, and a key that another process writes at the same moment.
"""

import contextlib
import functools
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import boto3
from boto3.exceptions import Boto3Error
from botocore import exceptions as faults
from botocore.config import Config

from vilam3.errors import ArtifactError, NotFoundError, OutOfReachError
from vilam3.objects import Entry, checked

ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
TAKEN = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
CONFLICT = frozenset({"OperationAborted", "ExistingObjectIsDirectory"})  # the second is how Versity's gateway says it
BROKEN = (
    faults.FlexibleChecksumError,
    faults.IncompleteReadError,
    faults.ReadTimeoutError,
    faults.ResponseStreamingError,
)
CONNECT_S, READ_S, ATTEMPTS, CONNECTIONS = 5, 60, 4, 32
PAUSE_S = 0.05
SERVER_FAULT = 500
T = TypeVar("T")


class S3Store:
    """Objects in an S3 bucket, below a prefix; endpoint, region and keys come from the AWS variables."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        """Prepare to use a bucket; nothing is sent yet."""
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
        self._s3 = _client(os.getpid(), settings)

    def put(self, key: str, content: bytes | Path) -> None:
        """See `ObjectStore.put`."""
        named = self._named(key)
        with self._translated():
            if isinstance(content, bytes):
                _repeated(self._s3.put_object, **named, Body=content)
            else:
                _repeated(self._s3.upload_file, str(content), **named)

    def put_new(self, key: str, content: bytes) -> bool:
        """See `ObjectStore.put_new`."""
        with self._translated():
            try:
                _repeated(self._s3.put_object, **self._named(key), Body=content, IfNoneMatch="*")
            except faults.ClientError as error:
                if _code(error) in TAKEN:
                    return False
                raise
        return True

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        with self._translated():
            return _repeated(self._body, **self._named(key))

    def save(self, key: str, path: Path) -> None:
        """See `ObjectStore.save`."""
        with self._translated():
            _repeated(self._s3.download_file, **self._named(key), Filename=str(path))

    def entry(self, key: str) -> Entry | None:
        """See `ObjectStore.entry`."""
        try:
            with self._translated():
                found = self._s3.head_object(**self._named(key))
        except NotFoundError:
            return None
        return Entry(key=key, num_bytes=int(found["ContentLength"]), modified_s=found["LastModified"].timestamp())

    def folders(self) -> list[str]:
        """See `ObjectStore.folders`."""
        pages = self._s3.get_paginator("list_objects_v2")
        with self._translated():
            told = pages.paginate(Bucket=self._bucket, Prefix=self._prefix, Delimiter="/")
            found = [one["Prefix"] for page in told for one in page.get("CommonPrefixes", ())]
        return sorted(name.removeprefix(self._prefix).rstrip("/") for name in found)

    def size(self, key: str) -> int | None:
        """Bytes of an object, or None where there is none of that key.

        Raises:
            ArtifactError: the store refuses or is out of reach.
        """
        found = self.entry(key)
        return None if found is None else found.num_bytes

    def copy(self, source: str, target: str) -> None:
        """See `ObjectStore.copy`."""
        with self._translated():
            _repeated(self._s3.copy, self._named(source), **self._named(target))

    def delete(self, prefix: str) -> None:
        """See `ObjectStore.delete`."""
        keys = [prefix, *(entry.key for entry in self.entries(prefix))]
        for key in keys:  # one by one: not every server knows the batch, which also wants a checksum of its own
            with contextlib.suppress(NotFoundError), self._translated():  # another has just removed it
                self._s3.delete_object(**self._named(key))

    def entries(self, prefix: str) -> Iterator[Entry]:
        """See `ObjectStore.entries`."""
        below = f"{self._prefix}{checked(prefix)}/"
        with self._translated():
            for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=below):
                for found in page.get("Contents", ()):
                    yield Entry(
                        key=found["Key"].removeprefix(self._prefix),
                        num_bytes=int(found["Size"]),
                        modified_s=found["LastModified"].timestamp(),
                    )

    def _body(self, **named: str) -> bytes:
        content: bytes = self._s3.get_object(**named)["Body"].read()
        return content

    def _named(self, key: str) -> Mapping[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + checked(key)}

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except faults.ClientError as error:
            code = _code(error)
            if code in ABSENT:
                message = "store: there is no object of that key; it was deleted or never written"
                raise NotFoundError(message) from error
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            kind = OutOfReachError if status >= SERVER_FAULT else ArtifactError
            raise kind(
                f"store s3://{self._bucket}: refused ({code}); check the bucket, AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY"
            ) from error
        except (faults.BotoCoreError, Boto3Error) as error:
            raise OutOfReachError(
                f"store s3://{self._bucket}: out of reach ({type(error).__name__}); check AWS_ENDPOINT_URL and the keys"
            ) from error


def _repeated(request: Callable[..., T], *args: object, **arguments: object) -> T:
    """The result of a request that may be sent again, past what passes by itself."""
    for attempt in range(1, ATTEMPTS):
        try:
            return request(*args, **arguments)
        except BROKEN:
            pass
        except faults.ClientError as error:
            if _code(error) not in CONFLICT:
                raise
        time.sleep(random.uniform(0, PAUSE_S * 2**attempt))  # noqa: S311 - so that writers do not meet again
    return request(*args, **arguments)


def _code(error: Any) -> str:  # noqa: ANN401 - boto3 states no type
    return str(error.response.get("Error", {}).get("Code", ""))


@functools.lru_cache(maxsize=4)
def _client(_process: int, _settings: tuple[tuple[str, str], ...]) -> Any:  # noqa: ANN401 - boto3 states no type
    """A client takes half a second to make and may be shared by threads, though not by processes that were forked."""
    retries = {"total_max_attempts": ATTEMPTS, "mode": "standard"}
    config = Config(connect_timeout=CONNECT_S, read_timeout=READ_S, retries=retries, max_pool_connections=CONNECTIONS)
    return boto3.session.Session().client("s3", config=config)

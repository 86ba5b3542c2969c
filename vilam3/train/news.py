"""What a training job leaves in the object store for whoever launched it: how far it is, and how it ended.

Of several processes the first one tells. Another leaves its error beside that, since whoever is asked to end or loses a
peer does not know why.

The job and its launcher share nothing else. The launcher may be gone for a while, and so may the store. But a launcher
that never comes back, since the run it served was ended and nobody waited for it, must not leave a job that holds
accelerators for days: it leaves a mark now and then, and a job that sees no new one for long saves its state and ends.
"""

import contextlib
import json
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from vilam3.errors import ArtifactError, NotFoundError
from vilam3.objects import ObjectStore, open_store

EVERY_S = 10.0
PATIENCE_S = 300.0  # with a store that is away when the job ends
# What the others of a gang raise when one of them has failed.
ECHOES = frozenset({"PreemptedError", "RuntimeError", "DistBackendError", "DistNetworkError", "DistStoreError"})
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """The newest word of a job.

    Attributes:
        step: Steps done.
        steps: Steps planned; 0 before the first one.
        loss: Of the last step.
        seconds_left: Estimated.
        model: URI of the finished stage; empty until then.
        ledger: URI of the records of what the time went into, see `vilam3.train.ledger`; empty until it is known.
        kind: Class of the error that ended the job; empty where none did.
        message: Of that error.
    """

    step: int = 0
    steps: int = 0
    loss: float | None = None
    seconds_left: float | None = None
    model: str = ""
    ledger: str = ""
    kind: str = ""
    message: str = ""


class Teller:
    """Takes every reading and writes the newest one now and then; a store that is away delays the news only."""

    def __init__(self, store: ObjectStore, key: str, *, unwatched_s: float | None) -> None:
        """Use `telling` instead."""
        self._store = store
        self._key = key
        self._unwatched_s = unwatched_s
        self._mark: tuple[bytes, float] = (b"", time.monotonic())  # the newest, and when it was first seen
        self._news = News()
        self._written: News | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write_now_and_then, name="news", daemon=True)

    def __call__(self, step: int, steps: int, loss: float, seconds_left: float) -> None:
        """Take a reading."""
        self._news = replace(self._news, step=step, steps=steps, loss=loss, seconds_left=seconds_left)

    def keeps_ledger_at(self, uri: str) -> None:
        """Where the time is accounted for."""
        self._news = replace(self._news, ledger=uri)

    def finished(self, model: str) -> None:
        """The stage is at this URI."""
        self._news = replace(self._news, model=model)

    def failed(self, error: BaseException) -> None:
        """Why it ended."""
        self._news = replace(self._news, kind=type(error).__name__, message=str(error))

    def start(self) -> None:
        """Begin to write; what the processes of an earlier try have left is over."""
        self._write()
        with contextlib.suppress(ArtifactError):
            self._store.put(_peer_key(self._key), _text(News()))
        self._thread.start()

    def close(self) -> None:
        """Write the last word."""
        self._is_over.set()
        self._thread.join()
        until = time.monotonic() + PATIENCE_S
        while not self._write() and time.monotonic() < until:
            time.sleep(EVERY_S)

    def _write_now_and_then(self) -> None:
        while not self._is_over.wait(EVERY_S):
            self._write()
            if self._unwatched_s is not None and self._unwatched_for() > self._unwatched_s:
                log.warning("nobody has watched this job for %.0f s: it saves its state and ends", self._unwatched_s)
                os.kill(os.getpid(), signal.SIGTERM)
                self._unwatched_s = None

    def _unwatched_for(self) -> float:
        """Seconds since the launcher left a new mark; a store that is away says nothing of the launcher."""
        try:
            mark = self._store.get(_mark_key(self._key))
        except NotFoundError:
            mark = b""
        except ArtifactError:
            return 0.0
        if mark != self._mark[0]:
            self._mark = (mark, time.monotonic())
        return time.monotonic() - self._mark[1]

    def _write(self) -> bool:
        """Whether the store has the newest word."""
        news = self._news
        if news == self._written:
            return True
        try:
            self._store.put(self._key, _text(news))
        except ArtifactError as error:
            log.warning("news of step %d could not be left: %s", news.step, error)
            return False
        self._written = news
        return True


def heard(uri: str) -> News | None:
    """The newest word at `uri`; None before the first one.

    Raises:
        ArtifactError: the store refuses or is out of reach.
    """
    place, _, key = uri.rpartition("/")
    store = open_store(place)
    told = _read(store, key)
    if told is None or told.model or (told.kind and told.kind not in ECHOES):
        return told
    peer = _read(store, _peer_key(key)) or News()
    return replace(told, kind=peer.kind, message=peer.message) if peer.kind else told


def _read(store: ObjectStore, key: str) -> News | None:
    try:
        return News(**json.loads(store.get(key)))
    except NotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{key}: is not the news of a job ({error}); it was written by another release") from error


def _text(news: News) -> bytes:
    return json.dumps(asdict(news)).encode()


def mark(uri: str) -> None:
    """Let the job whose news are at `uri` know that somebody watches.

    Raises:
        ArtifactError: the store refuses or is out of reach.
    """
    place, _, key = uri.rpartition("/")
    open_store(place).put(_mark_key(key), uuid.uuid4().bytes)


def _mark_key(key: str) -> str:
    return f"{key.removesuffix('.json')}.watched"


def _peer_key(key: str) -> str:
    return f"{key.removesuffix('.json')}.peer"


@contextlib.contextmanager
def telling(uri: str | None, *, unwatched_s: float | None = None, is_first: bool = True) -> Iterator[Teller | None]:
    """Leave news at `uri` while the block runs, and why it failed; None where nobody asked for any.

    Args:
        uri: An object of a store.
        unwatched_s: Send this process SIGTERM when nobody has watched for so long; None: never.
        is_first: Whether this is the first process of several, or the only one.
    """
    if not uri:
        yield None
        return
    place, _, key = uri.rpartition("/")
    if not is_first:
        with _leaving_errors(open_store(place), key):
            yield None
        return
    teller = Teller(open_store(place), key, unwatched_s=unwatched_s)
    teller.start()
    try:
        yield teller
    except Exception as error:
        teller.failed(error)
        raise
    finally:
        teller.close()


@contextlib.contextmanager
def _leaving_errors(store: ObjectStore, key: str) -> Iterator[None]:
    """Leave the error of a process that is not the first one, where it says more than the first one's would."""
    try:
        yield
    except Exception as error:
        kind = type(error).__name__
        if kind not in ECHOES:
            with contextlib.suppress(ArtifactError):
                store.put(_peer_key(key), _text(News(kind=kind, message=str(error))))
        raise

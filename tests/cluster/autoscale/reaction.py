"""How replicas react to load: watched once a second, while requests come and after the last of them."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.chart import RELEASE
from tests.cluster.kserve.load import asked_meanwhile
from tests.cluster.kserve.platform import READY_S, Platform
from vilam3.artifacts import write_json

PART = "vlm"
DEPLOYMENT = f"{RELEASE}-{PART}-predictor"
PER_SECOND = 16  # of one token each: more than one replica may use of the processors, and less than two
QUESTION_EVERY = 1  # every request asks the model
BEFORE_S = 10.0  # watched without load
FULL_S = 45.0  # under load, once there are more replicas
WATCH_S = 1.0
GONE_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Replicas at a moment, in seconds from the first request: asked for, and ready."""

    at_s: float
    wanted: int
    ready: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """What became of it.

    Attributes:
        scaler: What scaled: hpa or keda.
        up_s: From the first request until a second replica was ready.
        down_s: From the last request until one replica was left.
        load_s: From the first request to the last.
        requests: How many were sent.
        lost: Why some of them got no answer.
        replicas: The timeline.
        load: Moments at which requests were sent.
    """

    scaler: str
    up_s: float
    down_s: float
    load_s: float
    requests: int
    lost: Sequence[str]
    replicas: Sequence[Watched]
    load: Sequence[float]

    def write(self, file: Path) -> None:
        """Write it whole."""
        write_json(file, asdict(self))


class Watch:
    """The replicas of the Deployment, looked at once a second from another thread."""

    def __init__(self, platform: Platform) -> None:
        """Nothing is seen yet."""
        self._platform = platform
        self._began = time.monotonic()
        self._over = threading.Event()
        self.seen: list[Watched] = []

    def elapsed_s(self) -> float:
        """Since the start."""
        return time.monotonic() - self._began

    def run(self) -> None:
        """Look until told to stop."""
        while not self._over.wait(WATCH_S):
            told = json.loads(self._platform.kubectl("get", "deployment", DEPLOYMENT, "--output=json"))
            ready = told["status"].get("readyReplicas", 0)
            self.seen.append(Watched(at_s=self.elapsed_s(), wanted=told["spec"]["replicas"], ready=ready))

    def end(self) -> None:
        """Look no more."""
        self._over.set()

    def until(self, *, fewest: int, most: int) -> float:
        """The moment from which so many replicas were asked for and ready."""
        until = time.monotonic() + READY_S
        while not (self.seen and all(fewest <= count <= most for count in (self.seen[-1].wanted, self.seen[-1].ready))):
            assert time.monotonic() < until, self.seen[-3:]
            time.sleep(WATCH_S / 2)
        return self.seen[-1].at_s


def measure(platform: Platform, *, scaler: str) -> Reaction:
    """Put the installation under load until it has grown, then leave it alone until it has shrunk."""
    with _watched(platform) as watch:
        watch.until(fewest=1, most=1)
        time.sleep(BEFORE_S)
        began_s = watch.elapsed_s()
        with asked_meanwhile(
            platform.orchestrator, key=platform.caller_key, per_second=PER_SECOND, question_every=QUESTION_EVERY
        ) as load:
            grown_s = watch.until(fewest=2, most=100)
            time.sleep(FULL_S)
        ended_s = began_s + load.seconds
        shrunk_s = watch.until(fewest=1, most=1)
        time.sleep(BEFORE_S)
    moved = [Watched(at_s=one.at_s - began_s, wanted=one.wanted, ready=one.ready) for one in watch.seen]
    return Reaction(
        scaler=scaler,
        up_s=grown_s - began_s,
        down_s=shrunk_s - ended_s,
        load_s=load.seconds,
        requests=len(load.requests),
        lost=load.lost,
        replicas=moved,
        load=sorted(request.sent_s for request in load.requests),
    )


@contextmanager
def _watched(platform: Platform) -> Iterator[Watch]:
    watch = Watch(platform)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join()

"""What is seen of a cluster while it works: when each pod got its node, and what the programs took meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import urllib3
from kubernetes import client, config, watch

from vilam3.errors import ClusterError

SAMPLE_S = 1.0
POLL_S = 0.2
MEGABYTE = 1_000_000
WATCH_S = 20


@dataclass(slots=True, kw_only=True)
class Pod:
    """One pod as it was seen; moments are of this machine's monotonic clock, None for what has not happened."""

    name: str
    created_s: float
    node: str = ""
    placed_s: float | None = None
    running_s: float | None = None
    ending_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a program has taken by a moment: processor time since its start, and memory now."""

    at_s: float
    cpu_s: float
    memory_mb: float


class Pods:
    """The pods of a namespace, followed by one watch: to ask for all of them again and again would be a load itself."""

    def __init__(self) -> None:
        """None yet."""
        self._lock = threading.Lock()
        self._seen: dict[str, Pod] = {}

    def all(self) -> list[Pod]:
        """Every pod that there has been."""
        with self._lock:
            return list(self._seen.values())

    def living(self, *, prefix: str = "") -> list[Pod]:
        """Pods that are not ending and whose names begin so."""
        return [pod for pod in self.all() if pod.ending_s is None and pod.name.startswith(prefix)]

    def wait_for(self, condition: Callable[[], bool], *, what: str, timeout_s: float) -> float:
        """Return the seconds until `condition` held.

        Raises:
            ClusterError: It did not within `timeout_s`.
        """
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > timeout_s:
                raise ClusterError(f"{what}: not so after {timeout_s:.0f} s; {len(self.living())} pods are there")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def note(self, event: Mapping[str, Any]) -> None:
        """Take note of an event of the watch."""
        told, now = event["raw_object"], time.monotonic()
        metadata, node = told["metadata"], told["spec"].get("nodeName", "")
        is_ending = event["type"] == "DELETED" or "deletionTimestamp" in metadata
        with self._lock:
            pod = self._seen.setdefault(metadata["uid"], Pod(name=metadata["name"], created_s=now))
            pod.node = node
            pod.placed_s = pod.placed_s or (now if node else None)
            pod.running_s = pod.running_s or (now if told["status"].get("phase") == "Running" else None)
            pod.ending_s = pod.ending_s or (now if is_ending else None)


@contextmanager
def followed(kubeconfig: Path, *, namespace: str) -> Iterator[Pods]:
    """The pods of a namespace, from now on; a watch that breaks off is taken up where it was."""
    api = client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))
    pods, watching, over = Pods(), watch.Watch(), threading.Event()

    def follow() -> None:
        since: dict[str, Any] = {}
        while not over.is_set():
            try:
                for event in watching.stream(api.list_namespaced_pod, namespace, timeout_seconds=WATCH_S, **since):
                    pods.note(event)
                since = {"resource_version": watching.resource_version} if watching.resource_version else {}
            except (client.ApiException, urllib3.exceptions.HTTPError):
                since = {}  # everything is told again, which changes nothing

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        yield pods
    finally:
        over.set()
        watching.stop()
        reader.join(timeout=WATCH_S)


@contextmanager
def sampled(processes: Mapping[str, int]) -> Iterator[Mapping[str, Sequence[Sample]]]:
    """What the processes take, by name, once a second from now on."""
    taken: dict[str, list[Sample]] = {name: [] for name in processes}
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            for name, pid in processes.items():
                taken[name].append(taken_by(pid))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield taken
    finally:
        over.set()
        sampler.join()


def taken_by(pid: int) -> Sample:
    """What a process has taken until now."""
    process = psutil.Process(pid)
    with process.oneshot():
        times, memory = process.cpu_times(), process.memory_info()
    return Sample(at_s=time.monotonic(), cpu_s=times.user + times.system, memory_mb=memory.rss / MEGABYTE)

"""The chart on KubeRay as a test handles it: what surrounds it is that of the tier of KServe."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.chart import RELEASE
from tests.cluster.kserve.platform import NAMESPACE, POLL_S, READY_S, WEIGHTS, Platform

HERE = Path(__file__).parent
SERVICE = f"{RELEASE}-ray"
PORT = 8000
CHECKPOINTS = "checkpoints"  # in the bucket, as training.yaml says
ENDS = ("SUCCEEDED", "FAILED", "STOPPED")
SECRET = "vilam3-postgresql"  # noqa: S105 - a name


@dataclass(frozen=True, kw_only=True)
class ServingPlatform(Platform):
    """An installation whose services are deployments of Ray."""

    def await_ready(self) -> None:
        """Wait until Ray has every deployment and KubeRay sends requests to it."""
        wait = f"--timeout={READY_S}s"
        self.kubectl("wait", "--for=condition=Ready", wait, f"rayservice/{SERVICE}")
        until = time.monotonic() + READY_S
        with self.client() as caller:
            while not _is_ready(caller, self.orchestrator):
                assert time.monotonic() < until, "the endpoint is not ready"
                time.sleep(POLL_S)

    @property
    def orchestrator(self) -> str:
        """Where a caller asks: the proxies of Ray on the workers."""
        return f"http://{self.address(f'{SERVICE}-serve-svc')}:{PORT}"


def _is_ready(caller: httpx.Client, endpoint: str) -> bool:
    try:
        return caller.get(f"{endpoint}/v2/health/ready").is_success
    except httpx.TransportError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A job at its end.

    Attributes:
        status: What KubeRay says of it.
        workers: Every worker pod that was seen.
        steps: Of the checkpoints, in the order in which they were first seen complete.
    """

    status: Mapping[str, Any]
    workers: frozenset[str]
    steps: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingPlatform(Platform):
    """An installation that trains."""

    @contextmanager
    def prepared(self, claim: Mapping[str, Path], *, store: Mapping[str, Path] | None = None) -> Iterator[None]:
        """Make what the job finds in its namespace, and leave nothing; both are folders by their names."""
        self.kubectl("create", "namespace", NAMESPACE)
        try:
            self._apply_surroundings()
            self.kubectl("create", "secret", "generic", SECRET, f"--from-literal=password={self.store_key}")
            self._fill_claim(claim)
            self._fill_store(store or {})
            yield
        finally:
            self._leave()

    def mlflow(self, call: str, **body: object) -> dict[str, Any]:
        """Ask MLflow's interface; it answers those alone who call it by its name in the cluster."""
        service = f"{RELEASE}-mlflow"
        url, name = f"http://{self.address(service)}:5000/api/2.0/mlflow/{call}", f"{service}.{NAMESPACE}.svc:5000"
        method, given = ("GET", {"params": body}) if call.endswith("get-history") else ("POST", {"json": body})
        response = httpx.request(method, url, headers={"Host": name}, trust_env=False, timeout=60, **given)  # type: ignore[arg-type]  # of httpx
        assert response.is_success, response.text
        return dict(response.json())

    def job(self) -> dict[str, Any]:
        """What KubeRay says of the one job."""
        (job,) = json.loads(self.kubectl("get", "rayjob", "--output=json"))["items"]
        return dict(job.get("status", {}))

    def workers(self) -> set[str]:
        """Names of the worker pods that are not ending."""
        told = json.loads(self.kubectl("get", "pods", "--selector=ray.io/node-type=worker", "--output=json"))
        return {pod["metadata"]["name"] for pod in told["items"] if "deletionTimestamp" not in pod["metadata"]}

    def steps(self) -> list[int]:
        """Of the checkpoints that have their manifest."""
        told = self.store.list_objects_v2(Bucket=WEIGHTS, Prefix=f"{CHECKPOINTS}/")
        manifests = [one["Key"] for one in told.get("Contents", []) if one["Key"].endswith("/manifest.json")]
        return sorted(int(key.split("/")[-2].removeprefix("step-")) for key in manifests)

    def await_checkpoint(self) -> None:
        """Wait for the first complete checkpoint."""
        until = time.monotonic() + READY_S
        while not self.steps():
            status = self.job()
            assert status.get("jobStatus") not in ENDS, status
            assert time.monotonic() < until, status
            time.sleep(POLL_S)

    def await_end(self) -> Ended:
        """Wait until the job ends, however it does."""
        until, workers, steps = time.monotonic() + READY_S, set[str](), dict[int, None]()
        while (status := self.job()).get("jobStatus") not in ENDS:
            workers |= self.workers()
            steps |= dict.fromkeys(self.steps())
            assert time.monotonic() < until, status
            time.sleep(POLL_S)
        return Ended(status=status, workers=frozenset(workers), steps=tuple(steps))

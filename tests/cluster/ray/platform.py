"""The chart on KubeRay as a test handles it: what surrounds it is that of the tier of KServe."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.chart import RELEASE
from tests.cluster.kserve.platform import POLL_S, READY_S, Platform

HERE = Path(__file__).parent
SERVICE = f"{RELEASE}-ray"
PORT = 8000


@dataclass(frozen=True, kw_only=True)
class RayPlatform(Platform):
    """An installation whose services are deployments of Ray."""

    def await_ready(self) -> None:
        """Wait until Ray has every deployment and KubeRay sends requests to it."""
        wait = f"--timeout={READY_S}s"
        self.kubectl("wait", "--for=condition=Ready", wait, f"rayservice/{SERVICE}")
        until = time.monotonic() + READY_S
        with self.client() as caller:
            while caller.get(f"{self.orchestrator}/v2/health/ready").status_code != 200:
                assert time.monotonic() < until, "the endpoint is not ready"
                time.sleep(POLL_S)

    @cached_property
    def orchestrator(self) -> str:
        """Where a caller asks: the proxies of Ray on the workers."""
        return f"http://{self.address(f'{SERVICE}-serve-svc')}:{PORT}"

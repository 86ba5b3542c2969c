"""The chart as this tier handles it: KServe's services, and the autoscalers of the chart."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chart import RELEASE
from tests.cluster.kserve.platform import POLL_S, READY_S, Platform

VALUES = Path(__file__).with_name("values.yaml")
SCALED = f"{RELEASE}-vlm"


@dataclass(frozen=True, kw_only=True)
class ScalingPlatform(Platform):
    """An installation whose language model follows the load."""

    def await_ready(self) -> None:
        """Wait until every service is ready and its autoscaler sees what it uses."""
        wait = f"--timeout={READY_S}s"
        self.kubectl("wait", "--for=condition=Ready", wait, "inferenceservice", "--all")
        until = time.monotonic() + READY_S
        while not self._sees():
            assert time.monotonic() < until, "the autoscaler sees no use of processors"
            time.sleep(POLL_S)

    def _sees(self) -> bool:
        scaler = json.loads(self.kubectl("get", "horizontalpodautoscaler", SCALED, "--output=json"))
        return bool(scaler["status"].get("currentMetrics"))

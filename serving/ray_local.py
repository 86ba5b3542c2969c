"""A Ray of this machine's own with the Ray Serve application on it."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray import serve

from serving.ray_app import Settings, app

NAME = "vilam3"
PARTS = 8  # places for replicas, which mostly wait; Ray would leave parts out where there are fewer processors


@contextlib.contextmanager
def serving(given: Mapping[str, Any], *, host: str, port: int) -> Iterator[None]:
    """Serve while the block runs, and leave nothing of Ray behind.

    Args:
        given: See `serving.ray_app.Settings`.
        host: Address of Ray's proxy.
        port: Its port.
    """
    ray.init(num_cpus=max(PARTS, os.cpu_count() or 1), include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(app(Settings.model_validate(given)), name=NAME)
        yield
    finally:
        serve.shutdown()
        ray.shutdown()

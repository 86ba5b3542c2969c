"""What the endpoint adds to a dialogue: requests over HTTP against the same dialogue driven in this process.

The engine answers by rule and the expert draws at once, so that all that is measured is ours. ``make bench
AREAS=endpoint`` or ``python -m bench.endpoint``.
"""

import base64
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from bench.record import Figure, write
from tests.e2e.serving_fixture import served
from tests.unit.serving.fakes import RuleEngine, SlowExperts
from vilam3.consultant import Consultant
from vilam3.data.study import study_of
from vilam3.dialogue.bounds import Bounds
from vilam3.dialogue.drive import answer

WARM_UP = 10
REQUESTS = 200
CALLERS = 8
SIDE = 256
QUESTION = "Is there a hepatic tumor?"


def run() -> dict[str, Any]:
    """Measure and write ``endpoint.json``."""
    direct_ms = _times_ms(_driven())
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), ["tests.e2e.serving_process", "PORT"]) as server:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
            alone_ms = _times_ms(_asked(client, experts=False))
            consulted_ms = _times_ms(_asked(client, experts=True))
            first_ms = _times_ms(_first_event(client))
            probe_ms = _times_ms(lambda: client.get("/v2/health/ready").raise_for_status())
        together_s, per_s = _together(server.url)
    direct = _quantile(direct_ms, 0.5)
    figures = [
        Figure(name="dialogue with one expert, driven directly, p50", value=direct, unit="ms"),
        Figure(
            name="dialogue with one expert, over HTTP, p50",
            value=_quantile(consulted_ms, 0.5),
            unit="ms",
            baseline=direct,
        ),
        Figure(name="dialogue with one expert, over HTTP, p99", value=_quantile(consulted_ms, 0.99), unit="ms"),
        Figure(name="added by the endpoint, p50", value=_quantile(consulted_ms, 0.5) - direct, unit="ms"),
        Figure(
            name="added by the endpoint, p99",
            value=_quantile(consulted_ms, 0.99) - _quantile(direct_ms, 0.99),
            unit="ms",
        ),
        Figure(name="question without experts, over HTTP, p50", value=_quantile(alone_ms, 0.5), unit="ms"),
        Figure(name="first event of a stream, p50", value=_quantile(first_ms, 0.5), unit="ms"),
        Figure(name="readiness probe, idle, p50", value=_quantile(probe_ms, 0.5), unit="ms"),
        Figure(name=f"answers by {CALLERS} callers at once", value=per_s, unit="1/s"),
        Figure(name=f"answer with {CALLERS} callers at once, p99", value=_quantile(together_s, 0.99), unit="ms"),
    ]
    return write("endpoint", figures, command="python -m bench.endpoint")


def _driven() -> Callable[[], object]:
    consultant = Consultant(engine=RuleEngine(), experts=SlowExperts())
    study = study_of(modality="CT", radiograph_HW=np.zeros((SIDE, SIDE), np.uint8))
    pool = ThreadPoolExecutor(1)

    def once() -> object:
        asking = consultant.asking(QUESTION, study)
        return answer(
            asking, consultant.engine, consultant.ask_on(study), consultant.grammar(), bounds=Bounds(pool=pool)
        )

    return once


def _body(**extras: object) -> dict[str, Any]:
    stream = io.BytesIO()
    Image.new("L", (SIDE, SIDE)).save(stream, format="PNG")
    url = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}]
    return {"messages": [{"role": "user", "content": content}], "modality": "CT", **extras}


def _asked(client: httpx.Client, *, experts: bool) -> Callable[[], object]:
    body = _body(experts=experts)
    return lambda: client.post("/v1/chat/completions", json=body).raise_for_status()


def _first_event(client: httpx.Client) -> Callable[[], object]:
    body = _body(stream=True)

    def once() -> object:
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            return next(line for line in response.iter_lines() if "reply.piece" in line)

    return once


def _together(url: str) -> tuple[list[float], float]:
    """Milliseconds of each answer, and answers a second, of callers who ask without pause."""
    body = _body()

    def caller(_: int) -> list[float]:
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            return _times_ms(
                lambda: client.post("/v1/chat/completions", json=body).raise_for_status(), requests=REQUESTS // CALLERS
            )

    started = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as pool:
        times = [taken for each in pool.map(caller, range(CALLERS)) for taken in each]
    return times, CALLERS * (REQUESTS // CALLERS + WARM_UP) / (time.perf_counter() - started)


def _times_ms(work: Callable[[], object], *, requests: int = REQUESTS) -> list[float]:
    for _ in range(WARM_UP):
        work()
    times = []
    for _ in range(requests):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1000)
    return times


def _quantile(values: list[float], share: float) -> float:
    return round(statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1], 3)


if __name__ == "__main__":
    for measured in run()["figures"]:
        sys.stdout.write(f"{measured['name']}: {measured['value']} {measured['unit']}\n")

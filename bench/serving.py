"""How well questions are served: the engine, the orchestrator and the experts, each measured by a part of its own."""

from typing import Any

from bench.record import measure_parts


def run() -> dict[str, Any]:
    """Measure every part and write ``serving.json``.

    Raises:
        VilaM3Error: a part could not measure.
    """
    return measure_parts("serving", command="make bench-serving")

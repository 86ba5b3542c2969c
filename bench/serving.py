"""How well questions are served: the engine, the orchestrator and the experts, each measured by a part of its own."""

from typing import Any

from bench.record import parts, write


def run() -> dict[str, Any]:
    """Measure every part and write ``serving.json``."""
    return write("serving", parts("serving"), command="make bench-serving")

"""How well questions are served: the engine, the orchestrator and the experts, each measured by a part of its own."""

from typing import Any

from bench.record import parts, write
from vilam3.errors import VilaM3Error


def run() -> dict[str, Any]:
    """Measure every part and write ``serving.json``, without those that could not measure.

    Raises:
        VilaM3Error: there were such.
    """
    figures, failed = parts("serving")
    record = write("serving", figures, command="make bench-serving")
    if failed:
        raise VilaM3Error("; ".join(failed))
    return record

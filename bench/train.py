"""How well a stage is trained: speed against the published pattern, workers, checkpoints and memory, a part each."""

from typing import Any

from bench.record import parts, write
from vilam3.errors import VilaM3Error


def run() -> dict[str, Any]:
    """Measure every part and write ``train.json``, without those that could not measure.

    Raises:
        VilaM3Error: there were such.
    """
    figures, failed = parts("train")
    record = write("train", figures, command="make bench-train")
    if failed:
        raise VilaM3Error("; ".join(failed))
    return record

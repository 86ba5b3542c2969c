"""How well a stage is trained: speed against the published pattern, workers, checkpoints and memory, a part each."""

from typing import Any

from bench.record import measure_parts


def run() -> dict[str, Any]:
    """Measure every part and write ``train.json``.

    Raises:
        VilaM3Error: a part could not measure.
    """
    return measure_parts("train", command="make bench-train")

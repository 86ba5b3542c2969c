"""Lets a bundle's own inferer tell how far it is, and stop between two windows."""

import math
from dataclasses import dataclass
from typing import Any

from vilam3.experts.protocol import Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedInferer:
    """An inferer of MONAI's kind that calls `watch` before each window.

    Attributes:
        inferer: The bundle's.
        watch: Told the share of windows that are done.
    """

    inferer: Any
    watch: Watch

    def __call__(self, inputs: Any, network: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as MONAI's
        """Infer as the bundle's inferer does."""
        total, done = _num_windows(self.inferer, inputs.shape[2:]), 0

        def before(*_: object) -> None:
            nonlocal done
            self.watch(min(1.0, done / total))
            done += 1

        hook = network.register_forward_pre_hook(before)
        try:
            return self.inferer(inputs=inputs, network=network, *args, **options)  # noqa: B026 - names as MONAI's own
        finally:
            hook.remove()


def _num_windows(inferer: Any, shape: Any) -> int:  # noqa: ANN401 - MONAI ships no types
    """About how many forward passes there will be; one where the inferer does not cut."""
    window, overlap = getattr(inferer, "roi_size", None), getattr(inferer, "overlap", 0.25)
    batch = getattr(inferer, "sw_batch_size", 1)
    if window is None or not all(window) or min(window) < 1 or not isinstance(overlap, float | int):
        return 1
    per_axis = [
        1 + max(0, math.ceil((size - cut) / max(1, int(cut * (1 - overlap)))))
        for size, cut in zip(shape, window, strict=True)
    ]
    return max(1, math.ceil(math.prod(per_axis) / batch))

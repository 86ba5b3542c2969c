"""A tokenized sample."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """A tokenized sample; `length` counts its image positions too, `family` is that of its task where there are any."""

    input_ids_T: NDArray[np.int64]
    labels_T: NDArray[np.int64]
    images: tuple[str, ...]
    length: int
    sample_id: str = ""
    family: int | None = None
